"""A camera number means a row of the camera embedding only together with its data set."""

from types import SimpleNamespace

import pytest
import torch

from occplug import build_method
from occplug.backbones.tower import MEAN_CAMERA
from occplug.config import default_config
from occplug.data.cameras import check_cameras, describe_cameras, given_rows, rows_of_sources, to_rows
from occplug.data.manager import GeneratedDataManager
from occplug.engine import MethodEngine
from occplug.engine.checkpoint import load_checkpoint, save_checkpoint
from occplug.errors import DataError
from occplug.runs.candidates import Candidate, engine_of
from occplug.runs.session import describe_protocol
from occplug.zoo.weights import read_test_weights

SOURCES, TARGETS = ["synthocc", "market1501"], ["synthocc", "market1501", "occluded_reid", "dukemtmcreid"]
ROWS = {"synthocc": (0, 4), "market1501": (4, 4)}
OPTIONS = [
    "data.sources", SOURCES, "data.targets", TARGETS, "backbone.sie_camera", True, "backbone.weights", "none",
    "data.workers", 0, "train.batch_size", 8, "sampler.num_instances", 2, "method.prompts", False,
]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "rows", "expected"),
    [
        ("market1501", ROWS, (4, 4)),  # its own
        ("occluded_market", ROWS, (4, 4)),  # the same cameras
        ("occluded_reid", ROWS, (4, 4)),  # stands for them in DPM's official test
        ("dukemtmcreid", {"occluded_duke": (2, 8)}, (2, 8)),  # the other way round
        ("dukemtmcreid", ROWS, None),
        ("partial_reid", ROWS, None),
        ("a_set_of_the_user", ROWS, None),
        ("market1501", {}, None),
    ],
)
def test_rows_of_a_target(target, rows, expected):
    assert given_rows(target, rows) == expected
    camids = torch.tensor([0, 2])
    wanted = [MEAN_CAMERA] * 2 if expected is None else [expected[0], expected[0] + 2]
    assert to_rows(target, rows)(camids).tolist() == wanted


def test_a_source_without_a_row_for_a_test_camera_is_named_before_training():
    cfg = default_config("clip_reid", "clip_vit_tiny", ["backbone.sie_camera", True])
    sides = {"query": [("a.jpg", 1, 0)], "gallery": [("b.jpg", 1, 7)]}
    data = SimpleNamespace(camera_rows={"market1501": (0, 6)}, test_dataset={"market1501": sides})
    message = r"market1501 has the camera 7 \(counted from 0\), and backbone.sie_camera learnt 6 cameras"
    with pytest.raises(DataError, match=message):
        check_cameras(cfg, data)
    check_cameras(default_config("clip_reid", "clip_vit_tiny"), data)  # without the embedding no camera matters


def test_the_protocol_line_says_whose_rows_were_used():
    assert describe_cameras(["market1501", "synthocc"], ROWS) == "yes"
    text = "yes (mean row for dukemtmcreid; rows of market1501 for occluded_reid)"
    assert describe_cameras(TARGETS, ROWS) == text
    cfg = default_config("clip_reid", "clip_vit_tiny", OPTIONS)
    assert f"camera input {text}" in describe_protocol(cfg, camera_rows=ROWS)
    blind = default_config("ag_reid", "clip_vit_tiny", ["backbone.sie_camera", True, "method.test_cameras", False])
    assert "camera input no" in describe_protocol(blind, camera_rows=ROWS)


@pytest.mark.parametrize(
    ("sources", "cameras", "expected"),
    [
        (SOURCES, [1, 2, 3, 1, 2], {"synthocc": (0, 3), "market1501": (3, 2)}),
        (SOURCES, [0, 1, 1, 2, 3, 4], {"synthocc": (0, 2), "market1501": (2, 4)}),
        (["synthocc"], [1, 2, 3], {"synthocc": (0, 3)}),
        (SOURCES, [1, 2, 3], {}),
        (["synthocc"], [1, 1], {}),
    ],
)
def test_files_of_earlier_versions_tell_rows_by_their_camera_numbers(sources, cameras, expected):
    assert rows_of_sources(sources, cameras) == expected


def test_the_mean_row_is_the_mean():
    method = build_method(default_config("clip_reid", "clip_vit_tiny", OPTIONS), 4, 8, pretrained=False)
    rows = method.backbone.camera_embedding
    found = method.backbone.cameras(torch.tensor([3, MEAN_CAMERA]))
    torch.testing.assert_close(found, torch.stack([rows[3], rows.mean(0)]))


class Seen(torch.nn.Module):
    """Notes the rows that `embed` is given, in place of a model."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def __call__(self, images, camids):
        from occplug.embedding import Embedding

        self.rows += camids.tolist()
        return Embedding(torch.randn(len(images), 4))


def rows_seen(engine, target):
    seen = Seen()
    engine.embed = seen
    loaders = engine.datamanager.test_loader[target]
    engine._evaluate(target, loaders["query"], loaders["gallery"])
    return set(seen.rows)


def test_training_and_test_use_the_same_rows_also_where_sources_are_not_read(tmp_path):
    cfg = default_config("clip_reid", "clip_vit_tiny", [*OPTIONS, "data.save_dir", str(tmp_path)])
    data = GeneratedDataManager(cfg, num_classes=4, num_cameras=4)
    assert data.camera_rows == ROWS
    assert {row[2] for row in data.train_items if row[3] == 1} == {4, 5}  # two images of each identity
    method = build_method(cfg, data.num_train_pids, data.num_train_cams, pretrained=False)
    training = MethodEngine(cfg, data, method, tmp_path, torch.device("cpu"))
    own, second, mean = {0, 1}, {4, 5}, {MEAN_CAMERA}
    expected = {"synthocc": own, "market1501": second, "occluded_reid": second, "dukemtmcreid": mean}
    training.optimizer = training.scheduler = torch.optim.SGD(method.parameters(), 0.1)
    training.steppers = []
    training.save_state(0)
    path = tmp_path / "checkpoints/last.pth"
    assert load_checkpoint(path)["camera_rows"] == {"synthocc": [0, 4], "market1501": [4, 4]}
    assert {target: rows_seen(training, target) for target in TARGETS} == expected

    def tested():
        bare = GeneratedDataManager(cfg, num_classes=4, num_cameras=4, trains=False)
        assert bare.camera_rows == {}
        engine = engine_of(Candidate(cfg, "", read_test_weights(path)), bare, tmp_path, torch.device("cpu"))
        return {target: rows_seen(engine, target) for target in TARGETS}

    assert tested() == expected
    state = load_checkpoint(path)
    del state["camera_rows"]  # as written by an earlier version
    save_checkpoint(state, path)
    assert tested() == expected
