"""A baseline that learns nothing: colour histograms of horizontal stripes."""

from __future__ import annotations

import numpy as np
from PIL import Image

__all__ = ["color_histogram"]

BINS = (8, 4, 4)  # hue, saturation, value


def color_histogram(image, stripes: int = 6, grey_world: bool = False, margin: float = 0.25) -> np.ndarray:
    """Joint HSV histograms of equal horizontal stripes of the image's middle, as one vector of length 1.

    The sides of a person's box are mostly background, which says where the picture was taken, not of whom; with them
    the histogram is far weaker. Every stripe's histogram sums to 1 before its square root is taken: squared Euclidean
    distances between two images are twice their squared Hellinger distances, averaged over stripes.

    Args:
        image: [H, W, 3] uint8 RGB, or a PIL image; H is at least `stripes`.
        stripes: parts from top to bottom.
        grey_world: first scale each colour channel to the same mean, which undoes much of a camera's colour cast.
        margin: share of the width, below one half, that is left out on the left and on the right.
    Returns: [stripes * 128] float32.
    Raises: ValueError if the image is not uint8 RGB or has fewer rows than stripes.
    """
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or len(pixels) < stripes:
        raise ValueError(f"image is [H, W, 3] uint8 with H at least {stripes}, got {list(pixels.shape)} {pixels.dtype}")
    if grey_world:
        pixels = _grey_world(pixels)
    border = int(pixels.shape[1] * margin)
    pixels = np.ascontiguousarray(pixels[:, border : pixels.shape[1] - border])
    hsv = np.asarray(Image.fromarray(pixels).convert("HSV"), dtype=np.int64)
    cells = np.ravel_multi_index(tuple((hsv * BINS // 256).transpose(2, 0, 1)), BINS)  # [H, W]
    parts = [np.bincount(part.ravel(), minlength=np.prod(BINS)) for part in np.array_split(cells, stripes)]
    shares = np.concatenate([part / part.sum() for part in parts])
    return np.sqrt(shares / stripes).astype(np.float32)


def _grey_world(pixels: np.ndarray) -> np.ndarray:
    means = pixels.reshape(-1, 3).mean(axis=0)  # [3]
    scaled = pixels * (means.mean() / np.maximum(means, 1.0))
    return scaled.round().clip(0, 255).astype(np.uint8)
