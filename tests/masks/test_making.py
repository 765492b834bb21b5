"""make-masks: maps from poses, files that resume, the sheet, and weights that are not there."""

import math
import urllib.error

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import detection

from occplug.cli import main as run
from occplug.cli import make_masks as command
from occplug.errors import CheckpointError, ConfigError, DataError, OutputError
from occplug.masks import KEYPOINTS, LIMBS, NUM_CHANNELS, detectors, making
from occplug.masks.confidences import Person, confidence_maps
from occplug.masks.files import read_mask_file
from occplug.masks.making import Job, make_masks
from tests.data.test_manager import market

# a standing person in a picture of 128 x 64 pixels, x and y of the 17 keypoints
STANDING = [
    (32, 12), (34, 10), (30, 10), (37, 12), (27, 12), (42, 28), (22, 28), (46, 44), (18, 44), (48, 60), (16, 60),
    (38, 64), (26, 64), (38, 90), (26, 90), (38, 116), (26, 116),
]  # fmt: skip


def person(confidence=1.0, mask=None):
    points = torch.tensor([(x, y, confidence) for x, y in STANDING])
    return Person(points, torch.ones(128, 64) if mask is None else mask, 120.0)


def test_channels_have_their_largest_value_at_their_keypoint_or_limb():
    maps = confidence_maps(person(), (128, 64))
    assert maps.shape == (NUM_CHANNELS, 128, 64) and maps.dtype == np.float32 and 0 <= maps.min() <= maps.max() <= 1
    for channel, (x, y) in enumerate(STANDING):
        assert np.unravel_index(maps[channel].argmax(), (128, 64)) == (y, x), KEYPOINTS[channel]
    for channel, (a, b) in enumerate(LIMBS, start=17):
        (x0, y0), (x1, y1) = STANDING[a], STANDING[b]
        assert maps[channel, round((y0 + y1) / 2), round((x0 + x1) / 2)] > 0.97
        beyond = (round(y1 + (y1 - y0)), round(x1 + (x1 - x0)))
        assert math.hypot(y1 - y0, x1 - x0) < 15 or maps[channel][beyond] < 0.3


def test_confidence_halves_at_the_radius():
    points = torch.tensor([(20.0, 20.0, 0.8)]).repeat(17, 1)
    maps = confidence_maps(Person(points, torch.ones(100, 100), 100.0), (100, 100))
    assert maps[0, 20, 27] == pytest.approx(0.4, abs=1e-5) and maps[0, 13, 20] == pytest.approx(0.4, abs=1e-5)


def test_a_limb_is_as_sure_as_its_less_sure_end_and_the_mask_cuts():
    mask = torch.zeros(128, 64)
    mask[:, 32:] = 1
    one = person(mask=mask)
    one.keypoints[13, 2] = 0.25  # left knee
    maps = confidence_maps(one, (128, 64))
    assert maps[17].max() <= 0.25 and maps[18].max() <= 0.25 and maps[15].max() > 0.9
    assert not maps[:, :, :32].any()


def test_maps_cover_the_whole_image_at_any_size():
    maps = confidence_maps(person(), (32, 16))
    for channel, (x, y) in enumerate(STANDING):
        row, column = np.unravel_index(maps[channel].argmax(), (32, 16))
        assert abs(4 * row + 1.5 - y) <= 4 and abs(4 * column + 1.5 - x) <= 4
    assert not confidence_maps(None, (32, 16)).any()


# ---------------------------------------------------------------------- files


class StandIn:
    """Finds a standing person in every picture but black ones."""

    def __init__(self, fail_at=None):
        self.seen, self.fail_at = 0, fail_at

    def __call__(self, images):
        for _ in images:
            if self.seen == self.fail_at:
                raise KeyboardInterrupt
            self.seen += 1
        return [person() if image.max() > 0 else None for image in images]


def pictures(folder, count=5):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 256, (128, 64, 3), dtype=np.uint8) * (number > 0)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    jobs = [Job(p, tmp_path / "out" / f"{p.stem}.npy") for p in sorted(pictures(tmp_path / "in").iterdir())]
    with pytest.raises(KeyboardInterrupt):
        make_masks(jobs, StandIn(fail_at=3), batch_size=2)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0.npy", "1.npy"]
    before = (tmp_path / "out/1.npy").stat().st_mtime_ns
    again = StandIn()
    make_masks(jobs, again, batch_size=2)
    assert again.seen == 3 and (tmp_path / "out/1.npy").stat().st_mtime_ns == before
    assert [read_mask_file(job.mask).any().item() for job in jobs] == [False, True, True, True, True]


def test_a_mask_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    jobs = [Job(p, tmp_path / "out" / f"{p.stem}.npy") for p in sorted(pictures(tmp_path / "in").iterdir())]

    def full(stream, *args, **kwargs):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(making.np, "save", full)
    with pytest.raises(OutputError, match="0.npy could not be written: no space left on the disk"):
        make_masks(jobs, StandIn())
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_makes_masks_of_a_folder_and_a_sheet(tmp_path, capsys):
    pictures(tmp_path / "in/deeper")
    arguments = ["--images", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--sheet", str(tmp_path / "s.png")]
    command.main(arguments, StandIn())
    told = capsys.readouterr().out
    assert "5 images, 0 have masks already" in told
    assert f"5 masks made in {tmp_path / 'out/deeper'}, 1 of them empty" in told
    assert read_mask_file(tmp_path / "out/deeper/3.npy").shape == (36, 32, 16)
    sheet = np.asarray(Image.open(tmp_path / "s.png"))
    assert sheet.shape[1] == 8 * 264 and len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100
    command.main(arguments)  # nothing to do, so no models are needed
    assert "5 images, 5 have masks already" in capsys.readouterr().out


def test_the_command_makes_what_the_data_manager_reads(tmp_path, monkeypatch):
    from occplug.methods.clip_reid import CLIPReID
    from tests.data.test_manager import manager

    monkeypatch.setattr(CLIPReID, "extras", staticmethod(lambda cfg: ("masks",)))
    market(tmp_path)
    command.main(["--set", "occluded_duke", "--root", str(tmp_path)], StandIn())
    data = manager(tmp_path, "masks.directory", "keypointrcnn_maskrcnn")
    assert (next(iter(data.train_loader))["masks"].argmax(1) > 0).any()
    assert not (tmp_path / "Occluded_Duke/masks/keypointrcnn_maskrcnn/query").exists()


def test_masks_under_other_published_names_are_there_already(tmp_path, capsys):
    """One more mask is made, and the published ones stay those that are read."""
    from occplug.masks.files import find_mask_files

    pictures(tmp_path / "in", 3)
    for name in ("1.png.npy", "2.png.confidence_fields.npy"):
        (tmp_path / "out").mkdir(exist_ok=True)
        np.save((tmp_path / "out" / name).open("wb"), np.zeros((36, 2, 1), np.float32))
    command.main(["--images", str(tmp_path / "in"), "--out", str(tmp_path / "out")], StandIn())
    assert "3 images, 2 have masks already" in capsys.readouterr().out
    found = find_mask_files(str(tmp_path / "out"), ["0.png", "1.png", "2.png"])
    names = [file.path.rsplit("/", 1)[1] for file in found.values()]
    assert names == ["0.npy", "1.png.npy", "2.png.confidence_fields.npy"]


def test_the_sheet_shows_head_above_feet(tmp_path):
    file = pictures(tmp_path / "in", 2) / "1.png"
    job = Job(file, tmp_path / "1.npy")
    make_masks([job], StandIn())
    making.write_sheet(tmp_path / "s.png", [job], "five_v")
    tile = np.asarray(Image.open(tmp_path / "s.png")).astype(int)[:256, 128:256]
    red, other = tile[..., 0] - tile[..., 1] > 60, tile[..., 2] - tile[..., 1] > 50
    assert 0 < np.nonzero(red)[0].mean() < 60 < np.nonzero(other)[0].mean()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ([], ConfigError, "give either --set NAME"),
        (["--images", "x", "--set", "market1501"], ConfigError, "give either --set NAME"),
        (["--images", "in"], ConfigError, "--images needs --out DIR"),
        (["--images", "none", "--out", "o"], DataError, "none: there is no such folder"),
        (["--images", "empty", "--out", "o"], DataError, "empty: there are no images in it"),
        (["--images", "twins", "--out", "o"], DataError, "would have the same mask file; rename one of them"),
        (
            ["--images", "in", "--out", "o", "--size", "0", "4"],
            ConfigError,
            "--size and --batch-size must be at least 1",
        ),
        (["--set", "market", "--root", "in"], ConfigError, "no dataset is called 'market' (did you mean"),
    ],
)
def test_flags_that_cannot_work_are_explained(tmp_path, monkeypatch, arguments, kind, message):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    (pictures(tmp_path / "twins", 2) / "1.jpg").write_bytes((tmp_path / "twins/1.png").read_bytes())
    with pytest.raises(kind) as caught:
        command.main(arguments, StandIn())
    assert message in str(caught.value) and not (tmp_path / "o").exists()


def test_a_broken_image_is_named_and_the_rest_kept(tmp_path, capsys):
    (pictures(tmp_path / "in") / "3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="3.png: the file is not an image"):
        command.main(["--images", str(tmp_path / "in"), "--out", str(tmp_path / "o"), "--batch-size", "1"], StandIn())
    assert len(list((tmp_path / "o").iterdir())) == 3


# ---------------------------------------------------------------------- torchvision's models


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    options = {"weights": None, "weights_backbone": None, "min_size": 64, "max_size": 128, "box_detections_per_img": 20}
    keypoint = detection.keypointrcnn_resnet50_fpn(**options, box_score_thresh=0.0)
    mask = detection.maskrcnn_resnet50_fpn(**options, box_score_thresh=0.0, num_classes=2)
    return keypoint.eval(), mask.eval()


def test_random_models_go_through(tmp_path, models, monkeypatch):
    monkeypatch.setattr(detectors, "_LEAST_SCORE", 0.0)
    rng = np.random.default_rng(0)
    jobs = []
    for number, size in enumerate([(64, 32, 3), (80, 40, 3)]):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / f"{number}.png")
        jobs.append(Job(tmp_path / f"{number}.png", tmp_path / f"{number}.npy"))
    found = []
    detector = detectors.PersonDetector(*models)
    make_masks(jobs, lambda images: found.extend(detector(images)) or found)
    for one, size in zip(found, [(64, 32), (80, 40)], strict=True):
        assert one.keypoints.shape == (17, 3) and one.mask.shape == size and one.height >= 1
        assert 0 <= one.keypoints[:, 2].min() and one.keypoints[:, 2].max() <= 1
    assert all(read_mask_file(job.mask).shape == (36, 32, 16) for job in jobs)


def detections(boxes, scores, labels):
    count = len(boxes)
    points = torch.arange(count)[:, None, None].expand(-1, 17, 3).float()
    return {
        "boxes": torch.tensor(boxes).float(), "scores": torch.tensor(scores), "labels": torch.tensor(labels),
        "keypoints": points, "keypoints_scores": torch.full((count, 17), 2.0),
        "masks": torch.arange(count)[:, None, None, None].expand(-1, 1, 40, 20).float(),
    }  # fmt: skip


class Fixed(torch.nn.Module):
    def __init__(self, result):
        super().__init__()
        self.result, self.weight = result, torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return [self.result for _ in images]


def test_the_person_nearest_to_the_middle_is_taken():
    boxes = [[0, 0, 6, 40], [5, 2, 15, 38], [8, 8, 12, 32], [9, 19, 11, 21]]
    found = detections(boxes, [0.9, 0.8, 0.1, 0.99], [1, 1, 1, 18])  # the third is not sure, the fourth a dog
    (person,) = detectors.PersonDetector(Fixed(found), Fixed(found))([torch.zeros(3, 40, 20)])
    assert person.keypoints[0].tolist() == [1, 1, 0.5] and person.mask[0, 0] == 1 and person.height == 36
    nobody = detections(boxes[3:], [0.99], [18])
    assert detectors.PersonDetector(Fixed(found), Fixed(nobody))([torch.zeros(3, 40, 20)]) == [None]


@pytest.mark.parametrize("kind", ["keypoint", "mask"])
def test_weights_that_cannot_be_had_say_which_file_goes_where(tmp_path, monkeypatch, kind, capsys):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(CheckpointError) as caught:
        detectors.load_detector(kind)
    assert str(caught.value).startswith(
        f"torchvision's weights of {kind} R-CNN cannot be downloaded: <urlopen error no"
    )
    name = {
        "keypoint": "keypointrcnn_resnet50_fpn_coco-fc266e95.pth",
        "mask": "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth",
    }
    place = f"put it at {tmp_path}/hub/checkpoints/{name[kind]}, or name the file with --{kind}-weights"
    assert place in str(caught.value) and "https://download.pytorch.org/models/" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), ("text", "not a state dict file"), ({"a": torch.zeros(1)}, "not the weights of")],
)
def test_weight_files_that_do_not_fit_are_named(tmp_path, content, message):
    file = tmp_path / "w.pth"
    if isinstance(content, str):
        file.write_text(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(CheckpointError) as caught:
        detectors.load_detector("mask", str(file))
    assert str(caught.value).startswith(f"{file}: ") and message in str(caught.value)


def test_weights_from_a_file_are_loaded(tmp_path, models, monkeypatch):
    monkeypatch.setattr(detection, "keypointrcnn_resnet50_fpn", lambda **options: torch.nn.Linear(2, 3))
    torch.save({"weight": torch.ones(3, 2), "bias": torch.zeros(3)}, tmp_path / "w.pth")
    model = detectors.load_detector("keypoint", str(tmp_path / "w.pth"))
    assert torch.equal(model.weight, torch.ones(3, 2)) and not model.training


def test_the_command_is_registered(tmp_path, monkeypatch, capsys):
    assert run(["make-masks", "--images", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "occplug make-masks:" in capsys.readouterr().err
