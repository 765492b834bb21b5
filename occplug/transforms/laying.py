"""The loops of :mod:`occplug.transforms.pasting`, compiled: one or two passes in place of one for each operation.

Each does the float32 operations of its counterpart there in the same order; only sums of float64 are taken in another.
"""

from __future__ import annotations

import numpy as np

from occplug.utils import compiled

__all__ = ["blurred_border", "dilate", "erode", "is_compiled", "keep_thin", "light_around", "light_of", "mix", "solid"]


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


@compiled.loop("void(uint8[:,:,::1], int64[::1], float64[:,::1])")
def light_of(shape, place, sums):
    """Adds over the rows of a layer: alpha, luminance times alpha, and its square times alpha, to sums [3, w].

    Args:
        shape: uint8 [5, h, w], whose last plane is the alpha that counts.
        place: what of it lies where, as `pasting.Layer.place` says.
    """
    one, least, most = np.float32(1), np.float32(1e-3), np.float32(255)
    red, green, blue = np.float32(0.299), np.float32(0.587), np.float32(0.114)
    first, start, end, height = place[0], place[1], place[1] + place[3], place[2]
    totals, means, squares = sums[0], sums[1], sums[2]
    for y in range(height):
        row = first + y
        reds, greens, blues = shape[0, row, start:end], shape[1, row, start:end], shape[2, row, start:end]
        owns, opacity = shape[3, row, start:end], shape[4, row, start:end]
        for x in range(end - start):
            value = np.float32(opacity[x])
            share = value / max(np.float32(owns[x]), one)
            light = np.float32(reds[x]) * share * red + np.float32(greens[x]) * share * green
            light += np.float32(blues[x]) * share * blue
            value /= most
            totals[x] += value
            means[x] += light
            squares[x] += light * light / max(value, least)


@compiled.loop("void(uint8[:,:,::1], uint8[:,:,::1], int64[::1], int64, int64, int64, int64, int64, float64[:,::1])")
def light_around(image, shape, place, upper, lower, begin, end, uncovered, sums):
    """Adds over rows of `image`, uint8 [3, H, W]: the number of pixels that a layer leaves free, their luminance and
    its square, to sums [3, W].

    Args:
        shape, place: as for :func:`light_of`.
        upper, lower, begin, end: first and last row, first and last column of what is looked at.
        uncovered: alpha up to which a pixel is free.
    """
    first, start, height, width, top, left = place[0], place[1], place[2], place[3], place[4], place[5]
    red, green, blue = np.float32(0.299), np.float32(0.587), np.float32(0.114)
    across = end - begin
    free = np.empty(across, np.uint8)
    counts, means, squares = sums[0], sums[1], sums[2]
    for y in range(upper, lower):
        free[:] = 1
        if top <= y < top + height:
            source = shape[4, first + y - top, start : start + width]
            part = free[left - begin : left - begin + width]
            for x in range(width):
                part[x] = source[x] <= uncovered
        reds, greens, blues = image[0, y, begin:end], image[1, y, begin:end], image[2, y, begin:end]
        for x in range(across):
            light = np.float32(reds[x]) * red + np.float32(greens[x]) * green
            light += np.float32(blues[x]) * blue
            value = np.float64(light) * free[x]
            counts[x] += free[x]
            means[x] += value
            squares[x] += value * value


@compiled.loop("void(uint8[:,:,::1], uint8[:,::1], uint8[:,:,::1], int64[::1], float32, float32, float32)")
def mix(image, alpha, shape, place, factor, shift, limit):
    """Lays a layer over `image`, uint8 [3, H, W], its colours times `factor`, plus `shift`, but not below 0 and above
    `limit`; and its alpha into `alpha`, uint8 [H, W].

    Args:
        shape, place: as for :func:`light_of`.
    """
    zero, one, most, ties = np.float32(0), np.float32(1), np.float32(255), np.float32(1 << 23)
    first, start, height, width, top, left = place[0], place[1], place[2], place[3], place[4], place[5]
    shares, values = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(height):
        owns, opacity = shape[3, first + y, start : start + width], shape[4, first + y, start : start + width]
        hidden = alpha[top + y, left : left + width]
        for x in range(width):
            hidden[x] = opacity[x]
            value = np.float32(opacity[x])
            shares[x] = value / max(np.float32(owns[x]), one)
            values[x] = value / most
        for colour in range(3):
            row = shape[colour, first + y, start : start + width]
            out = image[colour, top + y, left : left + width]
            for x in range(width):
                value = values[x]
                layer = np.float32(row[x]) * shares[x] * factor + shift * value
                layer = min(max(layer, zero), limit * value)
                mixed = np.float32(out[x]) * (one - value) + layer
                # added to 2 ** 23, a float32 is rounded to a whole number, halves to even ones
                out[x] = np.uint8(min(mixed + ties - ties, most))


_ALL = (solid, erode, dilate, keep_thin, blurred_border, light_of, light_around, mix)


def is_compiled() -> bool:
    """Whether all loops here are."""
    return all(each.ready for each in _ALL)
