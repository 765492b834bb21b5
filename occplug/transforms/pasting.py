"""Laying a cut-out over an image: resize, soften the border, match the light of the place, mix.

Colours are premultiplied by alpha from the library to the last step, so that nothing transparent is ever averaged in.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from occplug.transforms import laying
from occplug.transforms.laying import FEWEST, UNCOVERED

__all__ = ["Layer", "Light", "feathered", "lay", "shaped"]

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)


class Layer:
    """The part of a cut-out that lies inside an image.

    Args:
        shape: uint8 [5, h, w], as :func:`shaped` gives it; not to be changed.
        mirrored: lay it with left and right exchanged.
        corner: (top, left) of the whole cut-out in the image, in pixels; may lie outside.
        image: (H, W).
        category: index in the category table.

    Attributes:
        place: the first row and column of `shape` that lie inside, height and width of what lies inside, and its top
            and left in the image.
        box: (top, left, bottom, right) of the whole cut-out, which may reach beyond the image.
    """

    def __init__(
        self, shape: np.ndarray, mirrored: bool, corner: tuple[int, int], image: tuple[int, int], category: int
    ):
        (top, left), (h, w) = corner, shape.shape[1:]
        first, start = max(0, -top), max(0, -left)
        height, width = max(0, min(h, image[0] - top) - first), max(0, min(w, image[1] - left) - start)
        self.shape, self.category = _mirrored(shape) if mirrored else shape, category
        self.image, self.box = image, (top, left, top + h, left + w)
        self.place = (first, start, height, width, max(top, 0), max(left, 0))

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns of the image that it lies over."""
        *_, h, w, top, left = self.place
        return slice(top, top + h), slice(left, left + w)

    @property
    def hidden(self) -> float:
        """Sum of its alpha over the image, in pixels."""
        if laying.is_compiled():
            return laying.alpha_sum(self.shape, self.place) / 255
        import cv2  # takes long to import, and adds bytes up twice as fast as numpy

        return cv2.sumElems(self.alpha)[0] / 255

    @property
    def planes(self) -> np.ndarray:
        """Of `shape`, what lies inside the image, uint8 [5, h, w]."""
        first, start, h, w, *_ = self.place
        return self.shape[:, first : first + h, start : start + w]

    @property
    def alpha(self) -> np.ndarray:
        """Inside the image, uint8 [h, w]: what counts in place of that of the cut-out, and is not above it."""
        first, start, h, w, *_ = self.place
        return self.shape[4, first : first + h, start : start + w]

    def hides(self) -> np.ndarray:
        """`alpha` in the whole image, uint8 [H, W]."""
        alpha = np.zeros(self.image, np.uint8)
        alpha[self.area] = self.alpha
        return alpha

    @functools.cached_property
    def colours(self) -> np.ndarray:
        """float32 [3, h, w], premultiplied by `alpha`, in [0, 255]; the layer's light is changed here."""
        share = np.maximum(self.planes[3], 1).astype(np.float32)
        np.divide(self.alpha, share, out=share)
        return self.planes[:3] * share


def _mirrored(planes: np.ndarray) -> np.ndarray:
    """uint8 [n, h, w] -> the same with left and right exchanged."""
    import cv2  # takes long to import, and turns rows five times as fast as numpy

    return cv2.flip(planes.reshape(-1, planes.shape[2]), 1).reshape(planes.shape)


def shaped(rgba: np.ndarray, height: int, width: int, feather: float | None) -> np.ndarray:
    """A cut-out, uint8 [h, w, 4], premultiplied, in another size: uint8 [5, height, width].

    Its four planes, by area average when it shrinks, else bilinear, and the alpha that counts: as :func:`feathered`, or
    with `feather` None all of a pixel or nothing, at half of its alpha.
    """
    import cv2  # takes long to import

    shrinks = height < rgba.shape[0] and width < rgba.shape[1]
    rgba = cv2.resize(rgba, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    shape = np.empty((5, height, width), np.uint8)
    cv2.split(rgba, list(shape[:4]))
    shape[4] = (shape[3] > 127) * np.uint8(255) if feather is None else feathered(shape[3], feather)
    return shape


def feathered(alpha: np.ndarray, feather: float) -> np.ndarray:
    """`alpha`, uint8 [h, w], with a soft border that lies inside the object: min(alpha, blurred core).

    The radius is r = max(1, feather min(h, w)) pixels, the core is alpha > 1/2 eroded by ceil(r / 2), and the blur is a
    Gaussian of sigma r / 2. What is so thin that little or nothing of it would be left, as a spoke, is not eroded.
    `feather` 0 leaves alpha as it is.
    """
    if not feather:
        return alpha
    radius = max(1.0, feather * min(alpha.shape))
    reach, weights = math.ceil(radius / 2), _gaussian(radius / 2)
    if laying.is_compiled():
        return _feathered(alpha, reach, weights)
    import cv2

    outside: dict[str, Any] = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    solid = cv2.compare(alpha, cast(Any, 127), cv2.CMP_GT)  # 255 where it holds
    narrow, wide = _square(reach), _square(2 * reach)
    core = cv2.erode(solid, narrow, **outside)
    thick = cv2.dilate(cv2.erode(core, narrow, **outside), wide, **outside)
    core = cv2.bitwise_or(core, cv2.bitwise_and(solid, cv2.bitwise_not(thick)))
    blurred = cv2.sepFilter2D(core, cv2.CV_32F, weights, weights, delta=0.5, borderType=cv2.BORDER_CONSTANT)
    return cv2.min(alpha, blurred.astype(np.uint8))


def _feathered(alpha: np.ndarray, reach: int, weights: np.ndarray) -> np.ndarray:
    alpha = np.ascontiguousarray(alpha)
    edge = max(2 * reach, len(weights) // 2)
    whole, core, thick, work = np.zeros((4, alpha.shape[0] + 2 * edge, alpha.shape[1] + 2 * edge), np.uint8)
    laying.solid(alpha, edge, whole)
    laying.erode(whole, edge, reach, work, core)
    laying.erode(core, edge, reach, work, thick)
    laying.dilate(thick, edge, 2 * reach, work, thick)
    laying.keep_thin(core, whole, thick)
    result = np.empty_like(alpha)
    laying.blurred_border(alpha, core, (256 * weights).astype(np.int32), result)
    return result


@functools.lru_cache(maxsize=256)
def _square(reach: int) -> np.ndarray:
    return np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)


@functools.lru_cache(maxsize=256)
def _gaussian(sigma: float) -> np.ndarray:
    """Weights [n] of cv2.GaussianBlur for bytes, which takes whole 256ths and hands rounding errors on to the next.

    In float32 sums of so few digits are exact, so that blurring by these and rounding gives its bytes in half the time.
    """
    import cv2

    exact = 256 * cv2.getGaussianKernel(round(6 * sigma + 1) | 1, sigma)[:, 0]
    middle, error = len(exact) // 2, 0.0
    weights = np.empty(len(exact))
    for i in range(middle):
        wanted = exact[i] + error
        weights[i] = weights[-1 - i] = np.rint(wanted)
        error = wanted - weights[i]
    weights[middle] = 256 - 2 * weights[:middle].sum()
    return weights / 256


@dataclass(frozen=True)
class Light:
    """Distribution Alignment: moves mean and spread of an occluder's light toward those of its surroundings.

    With m, s the mean and standard deviation of the luminance of the occluder (o, weighted by alpha) and of the
    surroundings (b):

        o' = clip(k (o - m_o) + m_o + brightness (m_b - m_o)),    k = clip((s_b / s_o) ** contrast, min_contrast, 1)

    DPL-ReID (arXiv 2605.19527), figure 6; the formula is our reading: two moments as in AdaIN, contrast never raised.

    Args:
        mode: "luma", one shift and factor for the three colours; "adain", one for each; "none".
        brightness, contrast: how far to go, 0 not at all, 1 all the way.
        min_contrast: the smallest factor.
    """

    mode: str
    brightness: float
    contrast: float
    min_contrast: float

    @property
    def strengths(self) -> tuple[float, float, float]:
        """`brightness`, `contrast`, `min_contrast`."""
        return float(self.brightness), float(self.contrast), float(self.min_contrast)

    def align(self, layer: Layer, pixels: np.ndarray) -> None:
        """Change the colours of `layer`, which is about to be laid over `pixels`, uint8 [3, H, W]."""
        if self.mode == "none":
            return
        alpha = layer.alpha.astype(np.float32)
        alpha /= 255
        total = float(alpha.sum(dtype=np.float64))
        around = _moments(layer, pixels, per_colour=self.mode == "adain")
        if total == 0 or around is None:
            return
        planes = layer.colours if self.mode == "adain" else _luminance(layer.colours)[None]
        mean = planes.sum((1, 2), dtype=np.float64) / total  # of premultiplied colours: the mean weighted by alpha
        square = (planes * planes / np.maximum(alpha, 1e-3)).sum((1, 2), dtype=np.float64) / total
        numbers = zip(mean.tolist(), square.tolist(), *around)
        moved = [laying.moved.plain(*each, self.strengths) for each in numbers]
        factor, shift = np.array(moved, np.float32).T
        layer.colours *= factor[:, None, None]
        layer.colours += shift[:, None, None] * alpha
        if shift.min() < 0:  # else nothing can be below 0
            np.maximum(layer.colours, 0, out=layer.colours)
        np.minimum(layer.colours, 255 * alpha, out=layer.colours)


def _luminance(planes: np.ndarray) -> np.ndarray:
    """[3, h, w] -> float32 [h, w]."""
    weighted = planes.astype(np.float32)
    weighted *= LUMINANCE[:, None, None]
    weighted[0] += weighted[1]
    weighted[0] += weighted[2]
    return weighted[0]


def _moments(layer: Layer, pixels: np.ndarray, per_colour: bool) -> tuple[np.ndarray, np.ndarray] | None:
    """Means and standard deviations ([3] per colour, else [1] of luminance) of what is around `layer` and not hidden
    by it; None if it hides all."""
    import cv2

    height, width = pixels.shape[1:]
    upper, lower, begin, end = laying.near.plain(layer.box, height, width)
    rows, columns = slice(upper, lower), slice(begin, end)
    free = _free(layer, rows, columns)
    if cv2.countNonZero(free) < FEWEST:
        rows, columns = slice(0, height), slice(0, width)
        free = _free(layer, rows, columns)
        if not cv2.countNonZero(free):
            return None
    near = pixels[:, rows, columns]
    planes = near if per_colour else [_luminance(near)]
    moments = [cv2.meanStdDev(plane, mask=free) for plane in planes]
    mean, deviation = (np.array([moment[i].item() for moment in moments]) for i in (0, 1))
    return mean, deviation


def _free(layer: Layer, rows: slice, columns: slice) -> np.ndarray:
    """uint8 mask of the pixels in `rows` and `columns` of the image, which `layer` lies in: 255 where it hides none."""
    import cv2

    h, w = layer.alpha.shape
    free = np.full((max(0, rows.stop - rows.start), max(0, columns.stop - columns.start)), 255, np.uint8)
    top, left = layer.place[4] - rows.start, layer.place[5] - columns.start
    free[top : top + h, left : left + w] = cv2.compare(layer.alpha, cast(Any, UNCOVERED), cv2.CMP_LE)
    return free


def lay(layer: Layer, pixels: np.ndarray, light: Light) -> None:
    """Lay `layer`, in the `light` of `pixels`, uint8 [3, H, W], over them: (1 - alpha) pixels + alpha occluder."""
    if light.mode != "adain" and laying.is_compiled():
        laying.lay(pixels, layer.shape, layer.place, layer.box, light.strengths, light.mode == "luma")
        return
    light.align(layer, pixels)
    rows, columns = layer.area
    share = layer.alpha.astype(np.float32)
    share /= 255
    under = pixels[:, rows, columns] * np.subtract(1, share, out=share)
    under += layer.colours
    np.rint(under, out=under)
    pixels[:, rows, columns] = np.minimum(under, 255, out=under)  # rounding may leave a colour above its alpha
