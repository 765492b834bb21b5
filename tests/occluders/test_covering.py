"""Covered pictures: the share that was asked for, nested over a series, the same every time, mistakes."""

import numpy as np
import pytest
from PIL import Image

from occplug.errors import ConfigError, DataError
from occplug.occluders import read_library
from occplug.occluders.covering import SIDES, Cover, covered

LIBRARY = read_library()
PICTURE = np.full((64, 32, 3), 90, np.uint8)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("share", [0.1, 0.35, 0.7])
def test_the_share_is_covered_to_a_line_of_pixels_from_its_side(side, share):
    pool = LIBRARY.by_category["car"]
    result, mask = covered(PICTURE, pool, side, share, 0.7)
    line = 1 / (64 if side in ("top", "bottom") else 32)
    assert share <= mask.mean() <= share + line + 1e-9
    assert (result[~mask] != 90).any(axis=-1).mean() < 0.2  # the border of a cut-out is half transparent
    far = {"bottom": mask[:10], "top": mask[-10:], "left": mask[:, -5:], "right": mask[:, :5]}[side]
    near = {"bottom": mask[-10:], "top": mask[:10], "left": mask[:, :5], "right": mask[:, -5:]}[side]
    assert near.mean() >= far.mean()


def test_over_a_series_the_same_cutout_comes_in_further(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(PICTURE).save(file)
    shares = [0.0, 0.2, 0.4, 0.7]
    pictures = [np.asarray(Cover(LIBRARY, share, 0.7).read(str(file))) for share in shares]
    assert (pictures[0] == PICTURE).all()
    changed = [(p != PICTURE).any(axis=-1).mean() for p in pictures]
    assert changed == sorted(changed) and changed[1] > 0.1
    again = np.asarray(Cover(LIBRARY, 0.4, 0.7).read(str(file)))
    assert (again == pictures[2]).all()
    other = np.asarray(Cover(LIBRARY, 0.4, 0.7, seed=2).read(str(file)))
    assert (other != again).any()


def test_kinds_and_sides_are_kept_to():
    cover = Cover(LIBRARY, 0.3, 0.7, ("car", "bus"), ("left",))
    assert {cover.choice(f"{n}.png") for n in range(30)} == {("car", "left"), ("bus", "left")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.8}, "shares of a picture are from 0 to below 1, got 0.8 of at most 0.7"),
        ({"kinds": ("cat",)}, "the library has no 'cat'; it has: "),
        ({"sides": ("front",)}, "there is no side 'front'; there are: bottom, left, right, top"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        Cover(LIBRARY, **{"share": 0.3, **options})


def test_a_library_of_thin_things_is_not_enough():
    thin = LIBRARY.by_category["car"][0]
    rgba = thin.rgba.copy()
    rgba[:, 3:] = 0
    from dataclasses import replace

    with pytest.raises(DataError, match="no occluder of the library covers 70% of a picture"):
        covered(PICTURE, [replace(thin, rgba=rgba)], "bottom", 0.2, 0.7)
