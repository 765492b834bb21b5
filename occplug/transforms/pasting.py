"""Laying a cut-out over an image: resize, feather, match the light of the place, mix.

Colours are premultiplied by alpha from the library to the last step, so that nothing transparent is ever averaged in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Layer", "Light", "feathered", "mixed", "resized"]

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
UNCOVERED = 0.05  # alpha below which a pixel belongs to the surroundings
GROWN = 0.1  # the surroundings: the cut-out's box, larger by this share of its sides on each side
FEWEST = 64  # pixels of surroundings; with fewer, the whole image that is not covered


@dataclass
class Layer:
    """The part of a pasted cut-out that lies inside the image.

    Args:
        colours: float32 [3, h, w], premultiplied, in [0, 255].
        alpha: uint8 [h, w].
        top, left: its place in the image, in pixels.
        box: (top, left, bottom, right) of the whole cut-out, which may reach beyond the image.
        category: index in the category table.
    """

    colours: np.ndarray
    alpha: np.ndarray
    top: int
    left: int
    box: tuple[int, int, int, int]
    category: int

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns of the image that it lies over."""
        h, w = self.alpha.shape
        return slice(self.top, self.top + h), slice(self.left, self.left + w)

    @classmethod
    def cut(cls, rgba: np.ndarray, alpha: np.ndarray, corner: tuple[int, int], image: tuple[int, int], category: int):
        """The layer of the premultiplied `rgba`, uint8 [h, w, 4], with its (feathered) `alpha`, uint8 [h, w], that has
        its upper left pixel at `corner` (top, left) of an image of size `image` (H, W)."""
        (top, left), (h, w) = corner, alpha.shape
        rows = slice(max(0, -top), max(0, min(h, image[0] - top)))
        columns = slice(max(0, -left), max(0, min(w, image[1] - left)))
        rgba, alpha = rgba[rows, columns], alpha[rows, columns]
        colours = np.ascontiguousarray(rgba[..., :3].transpose(2, 0, 1), dtype=np.float32)
        colours *= alpha / np.maximum(rgba[..., 3], 1).astype(np.float32)  # premultiplied by the new alpha
        return cls(colours, alpha, max(top, 0), max(left, 0), (top, left, top + h, left + w), category)


def resized(rgba: np.ndarray, height: int, width: int, mirrored: bool) -> np.ndarray:
    """uint8 [h, w, 4], premultiplied -> uint8 [height, width, 4]; area average when it shrinks, else bilinear."""
    import cv2  # takes long to import

    shrinks = height < rgba.shape[0] and width < rgba.shape[1]
    rgba = cv2.resize(rgba, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return cv2.flip(rgba, 1) if mirrored else rgba


def feathered(alpha: np.ndarray, feather: float) -> np.ndarray:
    """`alpha`, uint8 [h, w], with a soft border that lies inside the object: min(alpha, blurred core).

    The radius is r = max(1, feather min(h, w)) pixels, the core is alpha > 1/2 eroded by ceil(r / 2), and the blur is a
    Gaussian of sigma r / 2. What is so thin that the erosion would remove it, as a spoke, is part of the core as it is.
    `feather` 0 leaves alpha as it is.
    """
    if not feather:
        return alpha
    import cv2

    radius = max(1.0, feather * min(alpha.shape))
    solid = (alpha > 127).astype(np.uint8) * 255
    side = 2 * math.ceil(radius / 2) + 1
    kernel, outside = np.ones((side, side), np.uint8), {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    core = cv2.erode(solid, kernel, **outside)
    core |= solid & ~cv2.dilate(core, kernel, **outside)
    blurred = cv2.GaussianBlur(core, (0, 0), radius / 2, borderType=cv2.BORDER_CONSTANT)
    return np.minimum(alpha, blurred)


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

    def align(self, layer: Layer, pixels: np.ndarray) -> None:
        """Change the colours of `layer`, which is about to be laid over `pixels`, uint8 [3, H, W]."""
        if self.mode == "none":
            return
        alpha = layer.alpha.astype(np.float32) / 255
        around = _surroundings(layer, alpha, pixels)
        total = float(alpha.sum())
        if total == 0 or not around.shape[1]:
            return
        planes = layer.colours if self.mode == "adain" else np.tensordot(LUMINANCE, layer.colours, 1)[None]
        around = around if self.mode == "adain" else LUMINANCE[None] @ around
        mean = planes.sum((1, 2)) / total  # of premultiplied colours: the mean weighted by alpha
        square = (planes * planes / np.maximum(alpha, 1e-3)).sum((1, 2)) / total
        spread = np.sqrt(np.maximum(square - mean**2, 1e-6))
        factor = np.clip((around.std(1) / spread) ** self.contrast, self.min_contrast, 1)
        shift = mean * (1 - factor) + self.brightness * (around.mean(1) - mean)
        layer.colours *= factor[:, None, None]
        layer.colours += shift[:, None, None] * alpha
        np.clip(layer.colours, 0, 255 * alpha, out=layer.colours)


def _surroundings(layer: Layer, alpha: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """float32 [3, n]: the pixels around the occluder, not hidden by it."""
    height, width = pixels.shape[1:]
    covered = np.zeros((height, width), bool)
    covered[layer.area] = alpha >= UNCOVERED
    top, left, bottom, right = layer.box
    down, across = GROWN * (bottom - top), GROWN * (right - left)
    rows = slice(max(0, round(top - down)), min(height, round(bottom + down)))
    columns = slice(max(0, round(left - across)), min(width, round(right + across)))
    around = pixels[:, rows, columns][:, ~covered[rows, columns]]
    return (around if around.shape[1] >= FEWEST else pixels[:, ~covered]).astype(np.float32)


def mixed(layer: Layer, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(1 - alpha) pixels + alpha occluder: uint8 [3, H, W], and alpha in the whole image, uint8 [H, W]."""
    result, alpha = pixels.copy(), np.zeros(pixels.shape[1:], np.uint8)
    alpha[layer.area] = layer.alpha
    under = result[(slice(None), *layer.area)] * (1 - layer.alpha.astype(np.float32) / 255)
    under += layer.colours
    result[(slice(None), *layer.area)] = np.rint(under, out=under)
    return result, alpha
