"""Colours of a part of an image: draws and pixels are torchvision's on a Pillow picture, to the bit."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import ColorJitter

from occplug.transforms import jitter
from occplug.transforms.jitter import Jitter
from occplug.utils import compiled

LOOPS = (jitter._greys, jitter._enhance)
AREA = (3, 5, 30, 17)  # top, left, height, width


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
    pixels = np.random.default_rng(seed).integers(0, 256, (3, 40, 24), dtype=np.uint8)
    return (pixels > 127).astype(np.uint8) * 255 if extreme else pixels


@pytest.mark.parametrize("most", [0, 0.5, 1])
def test_pixels_and_draws_are_torchvisions(most, loops):
    top, left, height, width = AREA
    for seed in range(loops):
        pixels = noise(seed, extreme=seed % 3 == 0)
        expected, part = pixels.copy(), pixels[:, top : top + height, left : left + width]
        torch.manual_seed(seed)
        picture = ColorJitter(most, most, most)(Image.fromarray(np.ascontiguousarray(part.transpose(1, 2, 0))))
        expected[:, top : top + height, left : left + width] = np.asarray(picture).transpose(2, 0, 1)
        next_draw = torch.rand(()).item()
        torch.manual_seed(seed)
        Jitter(most)(pixels, AREA)
        np.testing.assert_array_equal(pixels, expected)
        assert torch.rand(()).item() == next_draw


def test_contrast_by_hand(loops):
    """Greys 10 and 250 of mean 130: 0.5 moves each half of the way there, 1.5 as far away, within a byte."""
    pixels = np.zeros((3, 2, 2), np.uint8)
    pixels[:, :, 0], pixels[:, :, 1] = 10, 250
    enhance = jitter._enhance if jitter._enhance.ready else jitter._enhance_by_pillow
    for factor, expected in ((0.5, (70, 190)), (1.5, (0, 255))):
        found = pixels.copy()
        enhance(found, (0, 0, 2, 2), (3, 1, 0, 2), (1.0, factor, 1.0))
        assert found[0, 0].tolist() == list(expected)


def test_loops_that_do_not_give_this_pillows_pixels_are_not_used(monkeypatch):
    monkeypatch.setattr(jitter._enhance, "_compiled", lambda pixels, *_: pixels.fill(7))
    jitter._is_pillows.cache_clear()
    pixels = noise(0)
    torch.manual_seed(0)
    Jitter(0.5)(pixels, AREA)
    jitter._is_pillows.cache_clear()
    assert len(np.unique(pixels)) > 7
