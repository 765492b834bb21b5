"""Shift the image by a few pixels: pad, then crop the original size."""

import numpy as np
import torch
from torchvision.transforms import v2

from occplug.registry import TRANSFORMS, defaults_of

__all__ = ["PadCrop"]


@TRANSFORMS.register_module("pad_crop")
class PadCrop(v2.Transform):
    """Pad every side with black pixels (in masks: background), then crop the original size at a uniform place.

    CLIP-ReID (arXiv 2211.13977), official code: `Pad(10)` and `RandomCrop` before normalisation; the draws are those of
    torchvision's `RandomCrop`. torchreid's `random_crop` is another transform: it enlarges the image.

    Args:
        padding: pixels on each side.
    """

    level = "pil"
    takes_pixels = True
    ranges = {"padding": (0, 1024)}

    def __init__(self, padding: int = 10):
        super().__init__()
        self.padding = padding

    defaults = defaults_of(__init__)

    def make_params(self, flat_inputs: list) -> dict[str, int]:
        """Draws the box: row and column in [-padding, padding], size of the image."""
        image = flat_inputs[0]
        height, width = image.shape[:2] if isinstance(image, np.ndarray) else v2.functional.get_size(image)
        top, left = (int(torch.randint(2 * self.padding + 1, ())) - self.padding for _ in range(2))
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt, params: dict[str, int]):
        """Crops the drawn box out of an image, its pixels [H, W, 3] or a mask."""
        if isinstance(inpt, np.ndarray):
            return _window(inpt, **params)
        return v2.functional.crop(inpt, **params)  # zeros where the box leaves the image


def _window(pixels: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Pixels [height, width, 3] from (top, left) on, which may be outside; zeros there."""
    result = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
    inside = pixels[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
    down, across = max(-top, 0), max(-left, 0)
    result[down : down + inside.shape[0], across : across + inside.shape[1]] = inside
    return result
