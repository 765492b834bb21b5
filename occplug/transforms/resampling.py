"""Pillow's resize of bytes as compiled loops, to the bit, five times as fast.

Pillow resizes along one axis after the other. Each output is a sum of neighbours with weights of 22 fractional bits,
rounded to a byte. Sums of whole numbers are exact in any order, so a loop over rows, in which the processor takes many
columns at once, gives the same. Columns are resized as rows of the transposed picture.
"""

from __future__ import annotations

import functools
import logging
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from occplug.utils import compiled

__all__ = ["Lines", "is_compiled", "resampled", "resized_part", "resized_picture"]

log = logging.getLogger(__name__)
Span = tuple[float, float]
Box = tuple[float, float, float, float]
BITS = 22
FEW = 3  # inputs of an output, that are added without storing sums: most resizes of crops have two or three
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
    picture: Image.Image | np.ndarray, height: int, width: int, interpolation: str
) -> Image.Image | np.ndarray:
    """RGB `picture`, or its pixels uint8 [H, W, 3], resized by Pillow or as by Pillow; whichever takes less time."""
    if isinstance(picture, np.ndarray) or picture.mode == "RGB":
        pixels = resampled(np.asarray(picture), height, width, interpolation) if is_compiled() else None
        if pixels is not None:
            return pixels
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture)
    # torchvision's `Resize` of pictures gives the same, but takes longer
    return picture.resize((width, height), Image.Resampling[interpolation.upper()])


@dataclass(frozen=True, eq=False)
class Lines:
    """A picture as parts of it are resized fastest.

    Args:
        rows: red, green and blue of each row, uint8 [H, 3, W], contiguous.
        columns: the same of each column, uint8 [W, 3, H], contiguous.
    """

    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def of(cls, picture: Image.Image | np.ndarray) -> Lines:
        """Those of an RGB picture, or of its pixels uint8 [H, W, 3]."""
        pixels = np.asarray(picture)
        return cls(np.ascontiguousarray(pixels.transpose(0, 2, 1)), np.ascontiguousarray(pixels.transpose(1, 2, 0)))

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return self.rows.nbytes + self.columns.nbytes


def resized_part(lines: Lines, box: Box, height: int, width: int, mirrored: bool = False) -> np.ndarray:
    """A part of a picture, resized bilinearly as by Pillow: uint8 [3, height, width], contiguous.

    Args:
        box: (left, top, right, bottom) of the part, in pixels.
        mirrored: from right to left.
    """
    if is_compiled():
        tall_first = bool(_tall_first()) and _loses_height(lines.rows.shape[::2], (height, width))
        return _part(lines.rows, lines.columns, box, height, width, mirrored, tall_first)
    picture = Image.fromarray(np.ascontiguousarray(lines.rows.transpose(0, 2, 1)))
    part = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box)).transpose(2, 0, 1)
    return np.array(part[:, :, ::-1] if mirrored else part, order="C")  # Pillow's pixels cannot be changed


def _resized(pixels, size, interpolation, tall_first, rows=None, columns=None) -> np.ndarray:
    """As :func:`resampled`.

    Args:
        tall_first: height is resized first where :func:`_loses_height`, as from Pillow 13 on.
    """
    import cv2  # takes long to import

    (height, width), (new_height, new_width) = pixels.shape[:2], size
    top, starts, weights = _taken(height, new_height, interpolation, rows)
    left, begins, shares = _taken(width, new_width, interpolation, columns)
    pixels = pixels[top : top + starts[-1] + weights.shape[1], left : left + begins[-1] + shares.shape[1]]
    if tall_first and _loses_height((height, width), size):
        pixels = _along_rows(np.require(pixels, requirements=["C", "W"]), starts, weights)
        return cv2.transpose(_along_rows(cv2.transpose(pixels), begins, shares))
    across = cv2.transpose(_along_rows(cv2.transpose(pixels), begins, shares))
    return _along_rows(across, starts, weights)


def _loses_height(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether height is reduced, and loses more than twice the pixels of width."""
    down, across = (before - after for before, after in zip(old, new))
    return down > 0 and down > 2 * across


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
    low, high, bits, half = np.int32(0), np.int32(255), np.int32(BITS), np.int32(1 << (BITS - 1))
    if weights.shape[1] == FEW:
        for i in range(result.shape[0]):
            start, a, b, c = starts[i], weights[i, 0], weights[i, 1], weights[i, 2]
            first, second, third, out = rows[start], rows[start + 1], rows[start + 2], result[i]
            for j in range(result.shape[1]):
                # numba widens sums and products to 64 bits, where processors take half as many at a time
                total = np.int32(np.int32(np.int32(first[j]) * a) + np.int32(np.int32(second[j]) * b))
                total = np.int32(np.int32(total + half) + np.int32(np.int32(third[j]) * c))
                out[j] = min(max(np.int32(total >> bits), low), high)
        return
    sums = np.empty(rows.shape[1], np.int32)
    for i in range(result.shape[0]):
        sums[:] = half
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
    taps = max(taps, min(FEW, old))
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


@compiled.loop("uint8[:,:,::1](uint8[:,:,::1], int64, int64)")
def _turned(rows, first, last):
    """Columns `first` to `last` of uint8 [H, 3, W] as rows: [last - first, 3, H]."""
    result = np.empty((last - first, 3, rows.shape[0]), np.uint8)
    for colour in range(3):
        for x in range(last - first):
            out = result[x, colour]
            for y in range(rows.shape[0]):
                out[y] = rows[y, colour, first + x]
    return result


@compiled.loop("uint8[:,:,::1](uint8[:,:,::1], int32[::1], int32[:,::1])")
def _weighed(rows, starts, weights):
    """Rows of uint8 [H, 3, W] resized: [n, 3, W]."""
    result = np.empty((starts.shape[0], 3 * rows.shape[2]), np.uint8)
    _weigh_rows(rows.reshape(rows.shape[0], 3 * rows.shape[2]), starts, weights, result)
    return result.reshape(starts.shape[0], 3, rows.shape[2])


@compiled.loop("uint8[:,:,::1](uint8[:,:,::1], uint8[:,:,::1], UniTuple(float64, 4), int64, int64, boolean, boolean)")
def _part(rows, columns, box, height, width, mirrored, tall_first):
    """As :func:`resized_part`; `tall_first`: resize the height before the width."""
    left, top, right, bottom = (np.float32(box[0]), np.float32(box[1]), np.float32(box[2]), np.float32(box[3]))
    starts, weights = _spread(rows.shape[0], height, top, bottom - top, 1.0)
    begins, shares = _spread(rows.shape[2], width, left, right - left, 1.0)
    x, y = begins[0], starts[0]
    last, end = begins[-1] + shares.shape[1], starts[-1] + weights.shape[1]
    starts -= y
    begins -= x
    if mirrored:
        begins, shares = begins[::-1].copy(), shares[::-1].copy()
    result = np.empty((3, height, width), np.uint8)
    if tall_first:
        parts = _weighed(_turned(_weighed(rows[y:end], starts, weights), x, last), begins, shares)
        for colour in range(3):
            for i in range(height):
                out = result[colour, i]
                for j in range(width):
                    out[j] = parts[j, colour, i]
    else:
        parts = _weighed(_turned(_weighed(columns[x:last], begins, shares), y, end), starts, weights)
        for i in range(height):
            for colour in range(3):
                result[colour, i] = parts[i, colour]
    return result


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


_ALL = (_weigh_rows, _filtered, _spread, _turned, _weighed, _part)
