"""Colours of an image are torchvision's on a Pillow picture, to the bit."""

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.functional import adjust_brightness, adjust_contrast, adjust_saturation

from occplug.transforms import jitter
from occplug.transforms.jitter import enhance
from occplug.utils import compiled

LOOPS = (jitter._greys, jitter._blended, jitter._enhance)


@pytest.fixture(params=["compiled", "as Python runs them", "Pillow"])
def loops(request, monkeypatch):
    """How many images a test can do with loops of each kind."""
    jitter._is_pillows.cache_clear()
    if request.param == "compiled":
        pytest.importorskip("numba")
        compiled.start(compiled.WORTH)
        assert jitter._enhance.ready and jitter._is_pillows()
        return 200
    for each in LOOPS:
        monkeypatch.setattr(each, "_compiled", None if request.param == "Pillow" else each.plain)
    return 5


def noise(seed, extreme=False):
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 40, 28), dtype=np.uint8)
    return (pixels > 127).astype(np.uint8) * 255 if extreme else pixels


@pytest.mark.parametrize("most", [0, 0.5, 1])
def test_pixels_are_torchvisions(most, loops):
    draws = np.random.default_rng(0)
    for seed in range(loops):
        pixels, order = noise(seed, extreme=seed % 3 == 0), draws.permutation(3).tolist()
        factors = draws.uniform(1 - most, 1 + most, 3).tolist()
        picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        for number in order:
            picture = (adjust_brightness, adjust_contrast, adjust_saturation)[number](picture, factors[number])
        enhance(pixels, order, factors)
        np.testing.assert_array_equal(pixels, np.asarray(picture).transpose(2, 0, 1))


def test_contrast_by_hand(loops):
    """Greys 10 and 250 of mean 130: 0.5 moves each half of the way there, 1.5 as far away, within a byte."""
    pixels = np.zeros((3, 2, 2), np.uint8)
    pixels[:, :, 0], pixels[:, :, 1] = 10, 250
    for factor, expected in ((0.5, (70, 190)), (1.5, (0, 255))):
        found = pixels.copy()
        enhance(found, (1, 0, 2), (1.0, factor, 1.0))
        assert found[0, 0].tolist() == list(expected)


def test_loops_that_do_not_give_this_pillows_pixels_are_not_used(monkeypatch):
    monkeypatch.setattr(jitter._enhance, "_compiled", lambda pixels, *_: pixels.fill(7))
    jitter._is_pillows.cache_clear()
    pixels = noise(0)
    enhance(pixels, (0, 1, 2), (0.9, 1.2, 1.3))
    jitter._is_pillows.cache_clear()
    assert len(np.unique(pixels)) > 7
