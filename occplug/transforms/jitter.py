"""Brightness, contrast and saturation of a part of an image, changed at random as torchvision's `ColorJitter` does."""

from __future__ import annotations

import functools
import logging

import numpy as np
from PIL import Image, ImageEnhance
from torchvision import transforms

from occplug.utils import compiled

__all__ = ["Jitter"]

log = logging.getLogger(__name__)
Area = tuple[int, int, int, int]  # top, left, height, width
CONTRAST, SATURATION = 1, 2  # torchvision's numbers; brightness is 0, and hue, which stays, 3
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


class Jitter:
    """Multiplies each of the three by a factor, in a random order, as Pillow does it.

    Draws, from torch's generator, and pixels are those of `torchvision.transforms.ColorJitter` on a Pillow picture, to
    the bit. Where loops are compiled, it takes a sixth of the time.

    Args:
        most: factors are uniform in [1 - most, 1 + most], of at most 1; with 0 nothing changes.
    """

    def __init__(self, most: float):
        self._bounds = transforms.ColorJitter(most, most, most)

    def __call__(self, pixels: np.ndarray, area: Area) -> None:
        """Change `pixels`, uint8 [3, H, W], contiguous, in `area`."""
        bounds = self._bounds
        drawn = bounds.get_params(bounds.brightness, bounds.contrast, bounds.saturation, bounds.hue)
        order, factors = tuple(drawn[0].tolist()), tuple(1.0 if each is None else each for each in drawn[1:4])
        enhance = _enhance if _enhance.ready and _is_pillows() else _enhance_by_pillow
        enhance(pixels, area, order, factors)


def _enhance_by_pillow(pixels: np.ndarray, area: Area, order: tuple[int, ...], factors: tuple[float, ...]) -> None:
    """As :func:`_enhance`."""
    top, left, height, width = area
    part = pixels[:, top : top + height, left : left + width]
    picture = Image.fromarray(np.ascontiguousarray(part.transpose(1, 2, 0)))
    for kind in order:
        if kind <= SATURATION:
            picture = _ENHANCERS[kind](picture).enhance(factors[kind])
    part[:] = np.asarray(picture).transpose(2, 0, 1)


@compiled.loop("int64(uint8[:,:,::1], int64, int64, int32[::1])")
def _greys(pixels, y, left, result):
    """Pillow's grey of the pixels of row `y` from `left` on; returns their sum."""
    end = left + result.shape[0]
    red, green, blue = pixels[0, y, left:end], pixels[1, y, left:end], pixels[2, y, left:end]
    total = 0
    for x in range(result.shape[0]):
        weighted = np.int32(19595) * red[x] + np.int32(38470) * green[x] + np.int32(7471) * blue[x]
        result[x] = (weighted + np.int32(1 << 15)) >> np.int32(16)
        total += result[x]
    return total


@compiled.loop("void(uint8[:,:,::1], UniTuple(int64, 4), UniTuple(int64, 4), UniTuple(float64, 3))")
def _enhance(pixels, area, order, factors):
    """Blend `pixels`, uint8 [3, H, W], in `area` with black, with their mean grey and each with its own grey.

    Args:
        order: numbers of the three, and of hue, which is left out.
        factors: of brightness, contrast, saturation: the share of the image, above 1 away from what it is blended with.
    """
    top, left, height, width = area
    base = np.empty(width, np.int32)
    zero, most = np.float32(0), np.float32(255)
    for kind in order:
        if kind > SATURATION:
            continue
        factor = np.float32(factors[kind])
        mean = 0
        if kind == CONTRAST:
            for y in range(top, top + height):
                mean += _greys(pixels, y, left, base)
            mean = int(mean / (height * width) + 0.5)
        base[:] = mean
        for y in range(top, top + height):
            if kind == SATURATION:
                _greys(pixels, y, left, base)
            for colour in range(3):
                row = pixels[colour, y, left : left + width]
                for x in range(width):
                    value = np.float32(base[x]) + factor * np.float32(np.int32(row[x]) - base[x])
                    row[x] = np.uint8(min(max(value, zero), most))


@functools.cache
def _is_pillows() -> bool:
    """Whether the compiled loop gives this Pillow's pixels on a sample. Tried once a process."""
    sample = np.random.default_rng(0).integers(0, 256, (3, 40, 24), dtype=np.uint8)
    for order, factors in (((0, 1, 2, 3), (0.37, 1.71, 1.4)), ((2, 1, 0, 3), (1.3, 0.2, 0.6))):
        found, expected = sample.copy(), sample.copy()
        _enhance(found, (3, 2, 33, 20), order, factors)
        _enhance_by_pillow(expected, (3, 2, 33, 20), order, factors)
        if not np.array_equal(found, expected):
            log.info("compiled loops do not give this Pillow's colours, so Pillow changes them")
            return False
    return True
