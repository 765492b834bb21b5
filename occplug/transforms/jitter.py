"""Brightness, contrast and saturation of an image, as Pillow and torchvision change them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageEnhance

from occplug.utils import compiled

__all__ = ["enhance"]

log = logging.getLogger(__name__)
BLOCK = 1024  # pixels that are changed together, which stay in the cache
CONTRAST, SATURATION = 1, 2  # brightness is 0
_ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


def enhance(pixels: np.ndarray, order: Sequence[int], factors: Sequence[float]) -> None:
    """Multiply brightness, contrast and saturation of `pixels`, uint8 [3, H, W], contiguous, in place.

    Pixels are those of Pillow's `ImageEnhance`, thus of `torchvision.transforms.ColorJitter`, to the bit.

    Args:
        order: numbers of the three, 0, 1 and 2, in the order in which they are changed.
        factors: of brightness, contrast and saturation; 1 changes nothing.
    """
    change = _enhance if _enhance.ready and _is_pillows() else _enhance_by_pillow
    change(pixels, tuple(order), tuple(factors))


def _enhance_by_pillow(pixels: np.ndarray, order: tuple[int, ...], factors: tuple[float, ...]) -> None:
    """As :func:`enhance`."""
    picture = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    for kind in order:
        picture = _ENHANCERS[kind](picture).enhance(factors[kind])
    pixels[:] = np.asarray(picture).transpose(2, 0, 1)


@compiled.loop("int32(uint8[:,::1], int64, int32[::1])")
def _greys(planes, first, result):
    """Pillow's greys of the pixels of `planes`, uint8 [3, N], from `first` on, as many as there are; their sum."""
    end = first + result.shape[0]
    red, green, blue = planes[0, first:end], planes[1, first:end], planes[2, first:end]
    total = np.int32(0)
    for x in range(red.shape[0]):
        weighted = np.int32(19595) * red[x] + np.int32(38470) * green[x] + np.int32(7471) * blue[x]
        result[x] = (weighted + np.int32(1 << 15)) >> np.int32(16)
        total += result[x]
    return total


@compiled.loop("float32(uint8, int32, float32)")
def _blended(value, base, factor):
    """`base` and `factor` times the difference to it, cut to [0, 255]."""
    # numba widens differences to 64 bits, which processors do not turn to float32 many at a time
    blended = np.float32(base) + factor * np.float32(np.int32(np.int32(value) - base))
    return min(max(blended, np.float32(0)), np.float32(255))


@compiled.loop("void(uint8[:,:,::1], UniTuple(int64, 3), UniTuple(float64, 3))")
def _enhance(pixels, order, factors):
    """As :func:`enhance`: pixels are blended with black, with their mean grey and each with its own grey.

    A factor is the share of the image, above 1 away from what it is blended with.
    """
    planes = pixels.reshape(3, pixels.shape[1] * pixels.shape[2])
    size = planes.shape[1]
    greys = np.empty(BLOCK, np.int32)
    for kind in order:
        factor, total = np.float32(factors[kind]), 0
        if kind == CONTRAST:
            for first in range(0, size, BLOCK):
                total += _greys(planes, first, greys)
        base = np.int32(total / size + 0.5)
        for first in range(0, size, BLOCK):
            if kind == SATURATION:
                _greys(planes, first, greys)
            for colour in range(3):
                row = planes[colour, first : first + BLOCK]
                for x in range(row.shape[0]):
                    row[x] = np.uint8(_blended(row[x], greys[x] if kind == SATURATION else base, factor))


@functools.cache
def _is_pillows() -> bool:
    """Whether the compiled loop gives this Pillow's pixels on a sample. Tried once a process."""
    sample = np.random.default_rng(0).integers(0, 256, (3, 50, 24), dtype=np.uint8)
    for order, factors in (((0, 1, 2), (0.37, 1.71, 1.4)), ((2, 1, 0), (1.3, 0.2, 0.6))):
        found, expected = sample.copy(), sample.copy()
        _enhance(found, order, factors)
        _enhance_by_pillow(expected, order, factors)
        if not np.array_equal(found, expected):
            log.info("compiled loops do not give this Pillow's colours, so Pillow changes them")
            return False
    return True
