"""The contact sheet: layout, determinism, mistakes."""

import numpy as np
import pytest
from PIL import Image

from occplug.cli import main
from occplug.reports.augmentation import GAP, LABEL
from tests.data.test_manager import SMALL, market


@pytest.fixture
def images(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(5):
        pixels = np.full((60, 30, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    return tmp_path / "in"


def run(images, output, *more):
    arguments = ["--images", str(images), "--output", str(output), "--count", "3", "--draws", "2"]
    return main(["show-augment", *arguments, *more])


def cell(picture, row, column):
    left, top = GAP + column * (128 + GAP), LABEL + row * (256 + GAP)
    return picture[top : top + 256, left : left + 128]


def test_originals_and_results_stand_side_by_side(images, tmp_path):
    assert run(images, tmp_path / "s.png", "--names", "rwoa", "oamn", "random_flip") == 0
    picture = np.asarray(Image.open(tmp_path / "s.png"))
    assert picture.shape == (LABEL + 3 * (256 + GAP) + GAP, 7 * (128 + GAP) + GAP, 3)
    for row, grey in enumerate((0, 80, 160)):
        original = cell(picture, row, 0)
        assert (original == grey).all()
        assert all((cell(picture, row, column) != grey).any() for column in (1, 2)), "rwoa"
        assert all(np.array_equal(cell(picture, row, column), original) for column in (5, 6)), "grey mirrors to itself"
    assert not np.array_equal(cell(picture, 0, 1), cell(picture, 0, 2))
    assert (picture[:LABEL, : GAP + 128] < 128).any() and (picture[:LABEL, GAP + 128 + GAP :] < 128).any(), "labels"


def test_the_same_seed_gives_the_same_sheet(images, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(images, tmp_path / f"{name}.png", "--seed", str(seed))
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_a_config_gives_images_size_and_options(tmp_path):
    market(tmp_path)
    pairs = [str(item) if not isinstance(item, list) else repr(item) for item in SMALL]
    file = tmp_path / "c.yaml"
    file.write_text(
        "model: {name: clip_reid}\nbackbone: {name: clip_vit_tiny, stride: 8, weights: embedded}\n"
        "data: {sources: [occluded_duke], targets: [occluded_duke]}\n"
    )
    arguments = ["--config-file", str(file), "--root", str(tmp_path), "--output", str(tmp_path / "s.png")]
    arguments += ["--count", "2", "--draws", "1", "--names", "oamn", "augment.oamn.jitter", "0.0", *pairs]
    assert main(["show-augment", *arguments]) == 0
    assert Image.open(tmp_path / "s.png").size == (2 * (16 + GAP) + GAP, LABEL + 2 * (32 + GAP) + GAP)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "give either --config-file, for a config's training images, or --images, a folder"),
        (["--images", "in", "--output", "s.gif"], "--output must end in .png"),
        (["--images", "nowhere"], "nowhere: there is no image in the folder"),
        (["--images", "in", "--names", "rwao"], "no transform is called 'rwao' (did you mean 'rwoa'?)"),
        (["--images", "in", "--size", "3"], "there is no option --size"),
    ],
)
def test_mistakes(images, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["show-augment", *arguments]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.glob("*.png"))
