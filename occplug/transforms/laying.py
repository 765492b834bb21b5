"""The loops of :mod:`occplug.transforms.pasting`, compiled: one or two passes in place of one for each operation.

Each does the float32 operations of its counterpart there in the same order; only sums of float64 are taken in another.
"""

from __future__ import annotations

import math

import numpy as np

from occplug.utils import compiled

__all__ = [
    "alpha_sum",
    "blurred_border",
    "dilate",
    "erode",
    "is_compiled",
    "keep_thin",
    "lay",
    "moved",
    "near",
    "solid",
]

# value / 255 of a byte, to the bit, without a division: the first has so few digits that its product is exact
MOST_OF_255TH, REST_OF_255TH = np.float32(257 / 65536), np.float32(1 / 255 - 257 / 65536)
UNCOVERED = 12  # alpha up to which a pixel belongs to the surroundings, of 255
GROWN = 0.1  # the surroundings: the cut-out's box, larger by this share of its sides on each side
FEWEST = 64  # pixels of surroundings; with fewer, the whole image that is not covered


@compiled.loop("void(uint8[:,::1], int64, int64, uint8[:,::1], uint8[:,::1])")
def erode(source, edge, reach, work, result):
    """The least of `source` within `reach` rows and columns, for what is inside a border of `edge` >= `reach` pixels.

    Args:
        work: 0 in its border, as is `result`'s; both as large as `source`.
    """
    width = source.shape[1] - 2 * edge
    for y in range(edge, source.shape[0] - edge):
        out, row = work[y, edge : edge + width], source[y, edge : edge + width]
        for x in range(width):
            out[x] = row[x]
        for shift in range(1, reach + 1):
            before = source[y, edge - shift : edge - shift + width]
            after = source[y, edge + shift : edge + shift + width]
            for x in range(width):
                out[x] = out[x] & before[x] & after[x]
    for y in range(edge, source.shape[0] - edge):
        out, row = result[y, edge : edge + width], work[y, edge : edge + width]
        for x in range(width):
            out[x] = row[x]
        for shift in range(1, reach + 1):
            above, below = work[y - shift, edge : edge + width], work[y + shift, edge : edge + width]
            for x in range(width):
                out[x] = out[x] & above[x] & below[x]


@compiled.loop("void(uint8[:,::1], int64, int64, uint8[:,::1], uint8[:,::1])")
def dilate(source, edge, reach, work, result):
    """The largest, as :func:`erode`."""
    width = source.shape[1] - 2 * edge
    for y in range(edge, source.shape[0] - edge):
        out, row = work[y, edge : edge + width], source[y, edge : edge + width]
        for x in range(width):
            out[x] = row[x]
        for shift in range(1, reach + 1):
            before = source[y, edge - shift : edge - shift + width]
            after = source[y, edge + shift : edge + shift + width]
            for x in range(width):
                out[x] = out[x] | before[x] | after[x]
    for y in range(edge, source.shape[0] - edge):
        out, row = result[y, edge : edge + width], work[y, edge : edge + width]
        for x in range(width):
            out[x] = row[x]
        for shift in range(1, reach + 1):
            above, below = work[y - shift, edge : edge + width], work[y + shift, edge : edge + width]
            for x in range(width):
                out[x] = out[x] | above[x] | below[x]


@compiled.loop("void(uint8[:,::1], int64, uint8[:,::1])")
def solid(alpha, edge, result):
    """1 where `alpha` > 127, inside of a border of `edge` pixels."""
    for y in range(alpha.shape[0]):
        out, row = result[y + edge, edge : edge + alpha.shape[1]], alpha[y]
        for x in range(alpha.shape[1]):
            out[x] = row[x] > 127


@compiled.loop("void(uint8[:,::1], uint8[:,::1], uint8[:,::1])")
def keep_thin(core, whole, thick):
    """core = core or (whole and not thick)."""
    for y in range(core.shape[0]):
        out, row, other = core[y], whole[y], thick[y]
        for x in range(core.shape[1]):
            out[x] = out[x] | (row[x] & ~other[x])


@compiled.loop("void(uint8[:,::1], uint8[:,::1], int32[::1], uint8[:,::1])")
def blurred_border(alpha, core, weights, result):
    """result = min(alpha, 255 times the blur of `core`, rounded); `weights` are whole 256ths."""
    height, width = alpha.shape
    edge, middle = (core.shape[0] - height) // 2, weights.shape[0] // 2
    across = np.zeros((core.shape[0], width), np.int32)
    for y in range(edge, edge + height):
        out = across[y]
        for i in range(weights.shape[0]):
            weight, row = weights[i], core[y, edge + i - middle : edge + i - middle + width]
            for x in range(width):
                out[x] += weight * np.int32(row[x])
    sums = np.empty(width, np.int32)
    for y in range(height):
        sums[:] = 0
        for i in range(weights.shape[0]):
            weight, row = weights[i], across[y + edge + i - middle]
            for x in range(width):
                sums[x] += weight * row[x]
        out, limit = result[y], alpha[y]
        for x in range(width):
            out[x] = min(np.int32(limit[x]), (np.int32(255) * sums[x] + np.int32(1 << 15)) >> np.int32(16))


@compiled.loop("int64(uint8[:,:,::1], UniTuple(int64, 6))")
def alpha_sum(shape, place):
    """Sum of a layer's alpha; `shape` and `place` as for :func:`lay`."""
    result = 0
    for y in range(place[0], place[0] + place[2]):
        row = shape[4, y, place[1] : place[1] + place[3]]
        for x in range(place[3]):
            result += np.int64(row[x])
    return result


@compiled.loop("UniTuple(float64, 3)(uint8[:,:,::1], UniTuple(int64, 6))")
def light_of(shape, place):
    """Sums over a layer of alpha, of luminance times alpha, and of its square times alpha; arguments of :func:`lay`."""
    one, least, most = np.float32(1), np.float32(1e-3), np.float32(255)
    red, green, blue = np.float32(0.299), np.float32(0.587), np.float32(0.114)
    first, start, height, width, _, _ = place
    end = start + width
    sums = np.zeros((3, width))
    totals, means, squares = sums[0], sums[1], sums[2]
    for y in range(first, first + height):
        reds, greens, blues = shape[0, y, start:end], shape[1, y, start:end], shape[2, y, start:end]
        owns, opacity = shape[3, y, start:end], shape[4, y, start:end]
        for x in range(width):
            value = np.float32(opacity[x])
            share = value / max(np.float32(owns[x]), one)
            light = np.float32(reds[x]) * share * red + np.float32(greens[x]) * share * green
            light += np.float32(blues[x]) * share * blue
            value /= most
            totals[x] += value
            means[x] += light
            squares[x] += light * light / max(value, least)
    return totals.sum(), means.sum(), squares.sum()


@compiled.loop("UniTuple(int64, 4)(UniTuple(int64, 4), int64, int64)")
def near(box, height, width):
    """First and last row, first and last column of an image of that size that count as the surroundings of `box`."""
    down, across = GROWN * (box[2] - box[0]), GROWN * (box[3] - box[1])
    upper, lower = max(0, int(np.rint(box[0] - down))), min(height, int(np.rint(box[2] + down)))
    return upper, lower, max(0, int(np.rint(box[1] - across))), min(width, int(np.rint(box[3] + across)))


@compiled.loop("UniTuple(float64, 2)(float64, float64, float64, float64, UniTuple(float64, 3))")
def moved(mean, square, around, deviation, strengths):
    """Factor and shift for an occluder with that mean and mean square of light, in surroundings with that mean and
    standard deviation; `strengths` of `pasting.Light`."""
    brightness, contrast, least = strengths
    spread = math.sqrt(max(square - mean**2, 1e-6))
    factor = min(max((deviation / spread) ** contrast, least), 1.0)
    return factor, mean * (1 - factor) + brightness * (around - mean)


@compiled.loop("UniTuple(float64, 3)(uint8[:,:,::1], uint8[:,:,::1], UniTuple(int64, 6), UniTuple(int64, 4))")
def light_around(image, shape, place, box):
    """Number of the pixels around a layer that it leaves free, or with too few of these of all that it leaves free;
    sums of their luminance and of its square. Arguments as of :func:`lay`."""
    red, green, blue = np.float32(0.299), np.float32(0.587), np.float32(0.114)
    first, start, height, width, top, left = place
    upper, lower, begin, end = near(box, image.shape[1], image.shape[2])
    free, sums, count = np.empty(image.shape[2], np.uint8), np.zeros((2, image.shape[2])), 0
    means, squares = sums[0], sums[1]
    for _ in range(2):
        sums[:] = 0
        count = 0
        for y in range(upper, lower):
            free[:] = 1
            if top <= y < top + height:
                source, part = shape[4, first + y - top, start : start + width], free[left : left + width]
                for x in range(width):
                    part[x] = source[x] <= UNCOVERED
            reds, greens, blues = image[0, y, begin:end], image[1, y, begin:end], image[2, y, begin:end]
            counted = free[begin:end]
            for x in range(end - begin):
                light = np.float32(reds[x]) * red + np.float32(greens[x]) * green
                light += np.float32(blues[x]) * blue
                count += np.int64(counted[x])
                value = np.float64(light * np.float32(counted[x]))
                means[x] += value
                squares[x] += value * value
        if count >= FEWEST:
            break
        upper, lower, begin, end = 0, image.shape[1], 0, image.shape[2]
    return float(count), means.sum(), squares.sum()


@compiled.loop("void(uint8[:,:,::1], uint8[:,:,::1], UniTuple(int64, 6), float32, float32, float32)")
def mix(image, shape, place, factor, shift, limit):
    """Lays a layer over `image`, its colours times `factor`, plus `shift`, but not below 0 and above `limit`; other
    arguments as of :func:`lay`."""
    zero, one, most, ties = np.float32(0), np.float32(1), np.float32(255), np.float32(1 << 23)
    first, start, height, width, top, left = place
    shares, values, limits = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(height):
        owns, opacity = shape[3, first + y, start : start + width], shape[4, first + y, start : start + width]
        for x in range(width):
            value = np.float32(opacity[x])
            shares[x] = value / max(np.float32(owns[x]), one)
            values[x] = value * MOST_OF_255TH + value * REST_OF_255TH
            limits[x] = limit * values[x]
        for colour in range(3):
            row = shape[colour, first + y, start : start + width]
            out = image[colour, top + y, left : left + width]
            for x in range(width):
                value = values[x]
                layer = np.float32(row[x]) * shares[x] * factor + shift * value
                layer = min(max(layer, zero), limits[x])
                mixed = np.float32(out[x]) * (one - value) + layer
                # added to 2 ** 23, a float32 is rounded to a whole number, halves to even ones
                out[x] = np.uint8(min(mixed + ties - ties, most))


@compiled.loop(
    "void(uint8[:,:,::1], uint8[:,:,::1], UniTuple(int64, 6), UniTuple(int64, 4), UniTuple(float64, 3), boolean)"
)
def lay(image, shape, place, box, strengths, aligned):
    """Lays a layer over `image`, uint8 [3, H, W], in its light.

    Args:
        shape: uint8 [5, h, w], whose last plane is the alpha that counts.
        place, box: of `pasting.Layer`.
        strengths: of `pasting.Light`.
        aligned: whether light is matched, as `pasting.Light.align` does with mode "luma".
    """
    factor, shift, limit = np.float32(1), np.float32(0), np.float32(1e9)  # a limit that no colour reaches
    if aligned:
        total, mean, square = light_of(shape, place)
        count, around, around_square = light_around(image, shape, place, box)
        if total > 0 and count > 0:
            around /= count
            deviation = math.sqrt(max(around_square / count - around**2, 0.0))
            found = moved(mean / total, square / total, around, deviation, strengths)
            factor, shift, limit = np.float32(found[0]), np.float32(found[1]), np.float32(255)
    mix(image, shape, place, factor, shift, limit)


_ALL = (solid, erode, dilate, keep_thin, blurred_border, alpha_sum, light_of, near, moved, light_around, mix, lay)


def is_compiled() -> bool:
    """Whether all loops here are."""
    return all(each.ready for each in _ALL)
