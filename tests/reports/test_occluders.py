"""The sheet of an occluder library: what a place holds, which cut-outs are shown, and the command."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from occplug.cli import main
from occplug.occluders import read_library
from occplug.reports.occluders import CELL, GROUND, strip


def cutout(color, alpha, height=40, width=20):
    """Of one colour and alpha; colours premultiplied, as a library holds them."""
    premultiplied = [channel * alpha // 255 for channel in color]
    return SimpleNamespace(rgba=np.full((height, width, 4), [*premultiplied, alpha], np.uint8))


def test_cutouts_lie_over_grey_in_the_middle_of_their_places():
    picture = strip([cutout((200, 0, 0), 255), cutout((0, 100, 0), 102, 20, 40)], 3)
    assert picture.shape == (CELL, 3 * CELL, 3)
    middle = CELL // 2
    assert picture[middle, middle].tolist() == [200, 0, 0]
    share = 102 / 255
    mixed = [(1 - share) * GROUND, share * 100 + (1 - share) * GROUND, (1 - share) * GROUND]
    assert np.abs(picture[middle, CELL + middle] - np.array(mixed)).max() <= 1
    assert (picture[:, 2 * CELL :] == GROUND).all() and (picture[0] == GROUND).all()
    tall, wide = (
        np.argwhere((picture[:, n * CELL : (n + 1) * CELL] != GROUND).any(-1)).max(0)
        - np.argwhere((picture[:, n * CELL : (n + 1) * CELL] != GROUND).any(-1)).min(0)
        + 1
        for n in (0, 1)
    )
    assert tall.tolist() == [CELL - 6, (CELL - 6) // 2] and wide.tolist() == [(CELL - 6) // 2, CELL - 6]


def test_few_places_show_cutouts_from_first_to_last():
    cutouts = [cutout((shade, shade, shade), 255) for shade in range(10, 60, 10)]
    picture = strip(cutouts, 3)
    assert [int(picture[CELL // 2, n * CELL + CELL // 2, 0]) for n in range(3)] == [10, 30, 50]


def test_the_command_names_every_category(tmp_path, capsys):
    file = tmp_path / "sheet.png"
    assert main(["show-occluders", "--figure", str(file), "--columns", "2"]) == 0
    with Image.open(file) as picture:
        said = picture.info["Description"]
    library = read_library()
    assert said.startswith(f"{len(library)} cut-outs: person 12, bicycle 6")
    assert all(f"{name} {len(cutouts)}" in said for name, cutouts in library.by_category.items())
    assert main(["show-occluders", "--figure", "sheet.gif"]) == 2
    assert main(["show-occluders", str(tmp_path / "none")]) == 2
    assert "there is no such folder of occluders" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--columns", "0"], ["--width", "0"]])
def test_sizes_that_cannot_be_are_refused(words, tmp_path, capsys):
    assert main(["show-occluders", "--figure", str(tmp_path / "a.png"), *words]) == 2
    assert "--columns is at least 1, and --width above 0" in capsys.readouterr().err
