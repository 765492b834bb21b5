"""Small files: what they hold, that a test with them is the test with the whole, and what is refused."""

import os
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from occplug.config import default_config, load_config
from occplug.engine import save_checkpoint
from occplug.errors import CheckpointError
from occplug.method import build_method
from occplug.zoo.weights import fill, needed_tensors, read_test_weights, save_small


@torch.no_grad()
def reads(method, names) -> bool:
    """Whether the embedding changes when the tensors `names` are made not-a-number."""
    state = method.state_dict()
    images, camids = torch.rand(1, 3, *method.backbone.image_size), torch.zeros(1, dtype=torch.long)
    wanted = method.embed(images, camids).pack()
    floats = [name for name in names if state[name].is_floating_point()]
    before = [state[name].clone() for name in floats]
    for name in floats:
        state[name].fill_(torch.nan)
    changed = not torch.equal(method.embed(images, camids).pack(), wanted)
    for name, value in zip(floats, before):
        state[name].copy_(value)
    return changed


CASES = [
    ("clip_reid", []),
    ("clip_reid", ["method.neck", "after", "method.spt", True]),
    ("ag_reid", ["backbone.sie_camera", True, "method.test_cameras", False]),
    ("dpl_reid", []),
    ("profd", []),
    ("profd", ["method.test_embeddings", "raw", "method.test_visibility", "even"]),
    ("dpm", []),
    ("dpm", ["method.neck", "after", "method.spt", True]),
    ("dpmpp", []),
    ("dpmpp", ["method.space", "both"]),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_what_a_method_declares_for_training_only_is_what_its_embedding_never_reads(name, options):
    method = build_method(default_config(name, "clip_vit_tiny", options), 5, 3, pretrained=False).eval()
    state = method.state_dict()
    declared = set(state) - set(needed_tensors(method, method.training_only))
    assert declared and not reads(method, declared), "the embedding reads what is left out"
    kept: dict[str, list[str]] = {}
    for name in set(state) - declared:
        kept.setdefault(".".join(name.split(".")[:2]), []).append(name)
    assert [part for part, names in kept.items() if not reads(method, names)] == [], "kept, but never read"


def small(method, path, **header):
    state = method.state_dict()
    save_small(path, {name: state[name] for name in needed_tensors(method, method.training_only)}, 5, 3, **header)


@pytest.mark.parametrize("name, options", [("clip_reid", []), ("clip_reid", ["method.neck", "after"]), ("profd", [])])
def test_a_small_file_gives_the_same_embedding_in_half_the_precision(name, options, tmp_path):
    cfg = default_config(name, "clip_vit_tiny", options)
    method = build_method(cfg, 5, 3, pretrained=False).eval()
    for value in method.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half())  # so that the file holds it exactly
    small(method, tmp_path / "a.safetensors")
    other = build_method(cfg, 5, 3, pretrained=False).eval()
    weights = read_test_weights(tmp_path / "a.safetensors")
    fill(other, weights, other.training_only)
    images = torch.randn(2, 3, 128, 64)
    expected, found = method.embed(images), other.embed(images)
    assert torch.equal(found.pack(), expected.pack())
    assert torch.equal(other.distance(found, found), method.distance(expected, expected))
    whole = sum(value.numel() * value.element_size() for value in method.state_dict().values())
    assert (tmp_path / "a.safetensors").stat().st_size < 0.51 * whole
    assert (weights.num_classes, weights.num_cameras, weights.is_whole) == (5, 3, False)
    assert not any("classifier" in key for key in weights.state)


def test_the_text_side_of_clip_reid_is_left_out_and_necks_follow_the_config(tmp_path):
    for neck in ("before", "after"):
        cfg = default_config("clip_reid", "clip_vit_tiny", ["method.neck", neck])
        small(build_method(cfg, 5, 3, pretrained=False).eval(), tmp_path / f"{neck}.safetensors")
    before, after = (read_test_weights(tmp_path / f"{neck}.safetensors").state for neck in ("before", "after"))
    assert not any(name.startswith(("text.", "prompts.context")) for name in before)
    assert "neck.norm.running_mean" in after and "neck.norm.running_mean" not in before


def test_a_file_that_lacks_what_the_config_needs_is_refused(tmp_path):
    cfg = default_config("clip_reid", "clip_vit_tiny")
    small(build_method(cfg, 5, 3, pretrained=False).eval(), tmp_path / "a.safetensors")
    after = build_method(default_config("clip_reid", "clip_vit_tiny", ["method.neck", "after"]), 5, 3, False).eval()
    with pytest.raises(CheckpointError, match="lacks tensors that testing with this config needs; .*neck.norm"):
        fill(after, read_test_weights(tmp_path / "a.safetensors"), after.training_only)
    wide = build_method(default_config("clip_reid", "clip_vit_tiny", ["backbone.stride", 4]), 5, 3, False).eval()
    with pytest.raises(CheckpointError, match=r"wrong shape: backbone.visual.positional_embedding"):
        fill(wide, read_test_weights(tmp_path / "a.safetensors"), wide.training_only)


def test_wide_values_keep_their_range_and_bad_ones_are_refused(tmp_path):
    save_small(tmp_path / "a.safetensors", {"x": torch.tensor([1e6, 1.0]), "y": torch.tensor([0.1])}, 1, 1)
    with safe_open(str(tmp_path / "a.safetensors"), "pt") as file:
        assert file.get_tensor("x").dtype == torch.float32 and file.get_tensor("y").dtype == torch.float16
    with pytest.raises(CheckpointError, match="not finite: z"):
        save_small(tmp_path / "b.safetensors", {"z": torch.tensor([torch.nan])}, 1, 1)
    assert not (tmp_path / "b.safetensors").exists()


def test_a_small_file_is_known_by_its_content(tmp_path):
    """A download from Google Drive has no name of its own."""
    save_small(tmp_path / "a.safetensors", {"x": torch.tensor([0.5])}, 4, 3)
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    weights = read_test_weights(tmp_path / "a.pth")
    assert weights.state["x"].item() == 0.5 and (weights.num_classes, weights.num_cameras) == (4, 3)


@pytest.mark.parametrize("change", [{"pids": "[1,"}, {"num_classes": "many"}, {"pids": None}])
def test_a_damaged_header_is_refused(change, tmp_path):
    header = {"format": "occplug-test-1", "pids": "[]", "config": "", "num_classes": "5", "num_cameras": "3"} | change
    header = {key: text for key, text in header.items() if text is not None}
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", header)
    with pytest.raises(CheckpointError, match=r"a.safetensors: its header is damaged \(.*\); fetch or export it again"):
        read_test_weights(tmp_path / "a.safetensors")


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match="no such checkpoint file"):
        read_test_weights(path)
    save_small(path, {"x": torch.zeros(9)}, 1, 1)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="damaged, cut off"):
        read_test_weights(path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(9)}, path)
    with pytest.raises(CheckpointError, match="not a small checkpoint of occplug"):
        read_test_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "it lacks state_dict; the file is damaged"),
        ({"state_dict": {"a": [1]}}, "its part 'state_dict' is not tensors of real numbers by name"),
        ({"state_dict": {}, "source": "dpm", "num_cameras": 1}, "it lacks num_classes"),
        ({"state_dict": {}, "pids": 5, "cameras": []}, r"its part 'pids' is not a list \(it is of type int\)"),
    ],
)
def test_a_checkpoint_of_ours_that_lacks_something_is_refused(content, message, tmp_path):
    path = tmp_path / "a.pth"
    save_checkpoint(content, path)
    with pytest.raises(CheckpointError, match=f"a.pth: {message}"):
        read_test_weights(path)
    save_small(tmp_path / "a.safetensors", {"x": torch.zeros(2)}, 1, 1, pids="5")
    with pytest.raises(CheckpointError, match="a.safetensors: its part 'pids' is not a list"):
        read_test_weights(tmp_path / "a.safetensors")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("form", ["occplug", "clip_reid", "profd", "torchreid:osnet_x0_25", "openai_clip"])
def test_code_in_a_file_is_never_run(form, tmp_path):
    path = tmp_path / "evil.pth"
    torch.save({"format": "occplug-1", "state_dict": {"x": torch.zeros(1)}, "config": Evil(tmp_path / "pwned")}, path)
    cfg = load_config("configs/clip_reid_synthocc.yaml")
    with pytest.raises(CheckpointError, match="evil.pth.*(run code|more than tensors)"):
        read_test_weights(path, form, cfg)
    assert not (tmp_path / "pwned").exists()
    path.write_bytes(pickle.dumps(Evil(tmp_path / "pwned")))
    with pytest.raises(CheckpointError, match="evil.pth"):
        read_test_weights(path, form, cfg)
    assert not (tmp_path / "pwned").exists()
    pickle.loads(path.read_bytes())  # the file would have done it
    assert (tmp_path / "pwned").exists()


def test_a_whole_checkpoint_must_be_whole(tmp_path):
    method = build_method(default_config("clip_reid", "clip_vit_tiny"), 5, 3, pretrained=False).eval()
    state = {name: value for name, value in method.state_dict().items() if not name.startswith("text.")}
    content = {"state_dict": state, "pids": [1, 2, 3, 4, 9], "cameras": [1, 2, 3], "config": ""}
    save_checkpoint(content, tmp_path / "a.pth")
    weights = read_test_weights(tmp_path / "a.pth")
    assert (weights.num_classes, weights.num_cameras, weights.pids) == (5, 3, (1, 2, 3, 4, 9))
    with pytest.raises(CheckpointError, match="missing in the file: text."):
        fill(method, weights, method.training_only)
