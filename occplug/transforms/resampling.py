"""Pillow's resize of bytes as compiled loops, to the bit, five times as fast.

Pillow resizes along one axis after the other. Each output is a sum of neighbours with weights of 22 fractional bits,
rounded to a byte. Sums of whole numbers are exact in any order, so a loop over rows, in which the processor takes many
columns at once, gives the same. Columns are resized as rows of the transposed picture.
"""

from __future__ import annotations

import functools
import logging
import math

import numpy as np
from PIL import Image

from occplug.utils import compiled

__all__ = ["is_compiled", "resampled", "resized_picture"]

log = logging.getLogger(__name__)
Span = tuple[float, float]
Box = tuple[float, float, float, float]
BITS = 22
_REACH = {"bilinear": 1.0, "bicubic": 2.0}  # pixels on each side that an enlargement looks at


def is_compiled() -> bool:
    """Whether loops are compiled and give this Pillow's pixels."""
    return all(each.ready for each in _ALL) and _tall_first() is not None


def resampled(
    pixels: np.ndarray,
    height: int,
    width: int,
    interpolation: str,
    rows: Span | None = None,
    columns: Span | None = None,
) -> np.ndarray | None:
    """What Pillow makes of RGB `pixels`, uint8 [H, W, 3]: uint8 [height, width, 3]; None where Pillow has to do it.

    Args:
        interpolation: "bilinear" or "bicubic"; Pillow has to do others.
        rows, columns: first and last coordinate of the part that is resized; None: all.
    """
    if interpolation not in _REACH or not is_compiled():
        return None
    return _resized(pixels, (height, width), interpolation, bool(_tall_first()), rows, columns)


def resized_picture(
    picture: Image.Image | np.ndarray, height: int, width: int, interpolation: str, box: Box | None = None
) -> Image.Image | np.ndarray:
    """RGB `picture`, or its pixels uint8 [H, W, 3], resized by Pillow or as by Pillow; whichever takes less time.

    Args:
        box: (left, top, right, bottom) of the part that is resized, in pixels; None: all.
    """
    if isinstance(picture, np.ndarray) or picture.mode == "RGB":
        spans = (None, None) if box is None else (box[1::2], box[::2])
        pixels = resampled(np.asarray(picture), height, width, interpolation, *spans) if is_compiled() else None
        if pixels is not None:
            return pixels
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    # torchvision's `Resize` of pictures gives the same, but takes longer
    return picture.resize((width, height), Image.Resampling[interpolation.upper()], box)


def _resized(pixels, size, interpolation, tall_first, rows=None, columns=None) -> np.ndarray:
    """As :func:`resampled`.

    Args:
        tall_first: height is reduced first where it loses more than twice the pixels of width, as from Pillow 13 on.
    """
    import cv2  # takes long to import

    (height, width), (new_height, new_width) = pixels.shape[:2], size
    top, starts, weights = _taken(height, new_height, interpolation, rows)
    left, begins, shares = _taken(width, new_width, interpolation, columns)
    pixels = pixels[top : top + starts[-1] + weights.shape[1], left : left + begins[-1] + shares.shape[1]]
    down = height - new_height
    if tall_first and down > 0 and down > 2 * (width - new_width):
        pixels = _along_rows(np.require(pixels, requirements=["C", "W"]), starts, weights)
        return cv2.transpose(_along_rows(cv2.transpose(pixels), begins, shares))
    across = cv2.transpose(_along_rows(cv2.transpose(pixels), begins, shares))
    return _along_rows(across, starts, weights)


def _taken(old: int, new: int, interpolation: str, span: Span | None) -> tuple[int, np.ndarray, np.ndarray]:
    """The first input that is needed, and :func:`_weights` counted from there."""
    starts, weights = _weights(old, new, interpolation, *(span or (0, old)))
    first = int(starts[0])
    return first, (starts - starts[0] if first else starts), weights


def _along_rows(pixels: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """uint8 [H, W, C], contiguous -> uint8 [n, W, C]; `starts` and `weights` as of :func:`_spread`."""
    _, width, channels = pixels.shape
    result = np.empty((len(starts), width * channels), np.uint8)
    _weigh_rows(pixels.reshape(len(pixels), -1), starts, weights, result)
    return result.reshape(-1, width, channels)


@compiled.loop("void(uint8[:,::1], int32[::1], int32[:,::1], uint8[:,::1])")
def _weigh_rows(rows, starts, weights, result):
    """result[i] = sum over t of weights[i, t] rows[starts[i] + t], rounded from `BITS` fractional bits to a byte."""
    low, high, bits = np.int32(0), np.int32(255), np.int32(BITS)
    sums = np.empty(rows.shape[1], np.int32)
    for i in range(result.shape[0]):
        sums[:] = np.int32(1 << (BITS - 1))
        for t in range(weights.shape[1]):
            weight, row = weights[i, t], rows[starts[i] + t]
            if weight != 0:
                for j in range(sums.shape[0]):
                    sums[j] += np.int32(row[j]) * weight
        out = result[i]
        for j in range(sums.shape[0]):
            out[j] = min(max(sums[j] >> bits, low), high)


@functools.lru_cache(maxsize=2048)
def _weights(old: int, new: int, interpolation: str, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`_spread`, for any numbers."""
    low, high = np.float32(low), np.float32(high)  # Pillow's coordinates
    return _spread(old, new, float(low), float(high - low), _REACH[interpolation])


@compiled.loop("float64(float64, float64)")
def _filtered(x, reach):
    """The weight at distance `x` >= 0: a triangle where `reach` is 1, Keys' cubic with a = -1/2 where it is 2."""
    if reach == 1:
        return max(1 - x, 0.0)
    a = -0.5
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2 else 0.0


@compiled.loop("Tuple((int32[::1], int32[:,::1]))(int64, int64, float64, float64, float64)")
def _spread(old, new, low, length, reach):
    """For each of `new` outputs spread over `length` of `old` inputs from `low` on: the first input, int32 [new], and
    the weights of it and the next ones, int32 [new, taps], in 2 ** -BITS. A reduction looks at as many more inputs.
    """
    scale = length / new
    wide = max(scale, 1.0)
    firsts, ends, taps = np.empty(new, np.int64), np.empty(new, np.int64), 0
    for i in range(new):
        centre = low + (i + 0.5) * scale
        firsts[i] = max(int(centre - reach * wide + 0.5), 0)
        ends[i] = min(int(centre + reach * wide + 0.5), old)
        taps = max(taps, ends[i] - firsts[i])
    starts, weights, exact = np.empty(new, np.int32), np.zeros((new, taps), np.int32), np.empty(taps)
    for i in range(new):
        centre, total = low + (i + 0.5) * scale, 0.0
        start = starts[i] = min(firsts[i], old - taps)
        for t in range(taps):
            is_seen = firsts[i] <= start + t < ends[i]
            exact[t] = _filtered(abs((start + t - centre + 0.5) * (1.0 / wide)), reach) if is_seen else 0.0
            total += exact[t]
        for t in range(taps):
            share = exact[t] / total
            weights[i, t] = int(share * (1 << BITS) + math.copysign(0.5, share))
    return starts, weights


@functools.cache
def _tall_first() -> bool | None:
    """The order of axes that gives this Pillow's pixels on samples; None: neither does. Tried once a process."""
    draws = np.random.default_rng(0)
    samples = []
    for old in ((31, 17), (64, 128), (90, 33), (40, 90), (97, 60)):
        noise = draws.integers(0, 256, (*old, 3), dtype=np.uint8)
        samples.append(noise if old[0] % 2 else (noise > 127).astype(np.uint8) * 255)
    for tall_first in (True, False):
        if all(_is_pillows(pixels, kind, tall_first) for pixels in samples for kind in _REACH):
            return tall_first
    log.info("compiled loops do not give this Pillow's pixels, so Pillow resizes pictures")
    return None


def _is_pillows(pixels: np.ndarray, interpolation: str, tall_first: bool) -> bool:
    resample = Image.Resampling[interpolation.upper()]
    return np.array_equal(
        _resized(pixels, (64, 32), interpolation, tall_first),
        np.asarray(Image.fromarray(pixels).resize((32, 64), resample)),
    )


_ALL = (_weigh_rows, _filtered, _spread)
