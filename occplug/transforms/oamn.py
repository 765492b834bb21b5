"""A strip of another training image at a border of the image, OAMN's occluders."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from occplug.config.ranges import SHARE
from occplug.errors import ConfigError
from occplug.registry import TRANSFORMS, defaults_of
from occplug.transforms.occlusion import CLEAN, Occluded, Occlusion
from occplug.transforms.pipeline import as_picture

__all__ = ["OAMN"]


@TRANSFORMS.register_module("oamn")
class OAMN(Occlusion):
    """Paste a rectangle cut from a training image: a full-height strip at a side, or a full-width one above or below.

    After OAMN (Chen et al., ICCV 2021), whose code was not to be had; the numbers are those of FED's background pasting
    as kept in a public fork. Half of the time the strip is H x U(W/4, W/2) at the left or right edge, else U(H/4, H/2)
    x W at the top or bottom. It is cut at a uniform place of a uniformly drawn training image (in one of N draws that
    is the image itself), mirrored half of the time, and its brightness, contrast and saturation are jittered by
    `jitter`. It has no category.

    Args:
        prob: probability that an image is occluded.
        jitter: factors are uniform in [1 - jitter, 1 + jitter].

    Raises:
        ConfigError: a value that cannot be, or no training images were bound before the first call.
    """

    ranges = {"prob": SHARE, "jitter": SHARE}

    def __init__(self, prob: float = 0.5, jitter: float = 0.5):
        super().__init__("oamn", prob)
        if not 0 <= jitter <= 1:
            raise ConfigError(f"augment.oamn.jitter is {jitter}; it must be from 0 to 1")
        self.jitter = v2.ColorJitter(jitter, jitter, jitter)
        self.items: Sequence | None = None

    defaults = defaults_of(__init__)

    def bind(self, items: Sequence, read: Callable) -> None:
        """Say where strips come from: `items` are rows (path, ...), `read(path)` gives an RGB picture or its pixels."""
        self.items, self.read = items, read

    def occlude(self, pixels: np.ndarray) -> Occluded:
        """Put a strip before `pixels`, uint8 [3, H, W]."""
        if not self.items:
            raise ConfigError("oamn cuts its strips from training images, and none were bound; call bind(items, read)")
        which, upright, share, place, far, mirror = torch.rand(6, dtype=torch.float64).tolist()
        height, width = pixels.shape[1:]
        whole, across = (width, True) if upright < 0.5 else (height, False)
        thick = round(whole * (1 + share) / 4)
        start = int(far * 2) * (whole - thick)
        picture = as_picture(self.read(self.items[int(which * len(self.items))][0]))
        cut = _strip(picture, (height, width), thick, place, across)
        if mirror < 0.5:
            cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        strip = np.asarray(self.jitter(cut)).transpose(2, 0, 1)
        rows, columns = (slice(None), slice(start, start + thick))[:: 1 if across else -1]
        pixels[:, rows, columns] = strip

        def hides() -> np.ndarray:
            alpha = np.zeros((height, width), np.uint8)
            alpha[rows, columns] = 255
            return alpha

        return Occluded(hides, CLEAN)


def _strip(picture: Image.Image, size: tuple[int, int], thick: int, place: float, across: bool) -> Image.Image:
    """A strip `thick` pixels wide (`across`) or high, at `place` in [0, 1), of `picture` resized to `size` (H, W)."""
    height, width = size
    scale = (picture.width / width, picture.height / height)
    start = place * ((width if across else height) - thick)
    box = (start, 0, start + thick, height) if across else (0, start, width, start + thick)
    left, top, right, bottom = (value * scale[i % 2] for i, value in enumerate(box))
    inside = (left, top, min(right, picture.width), min(bottom, picture.height))  # rounding may leave the picture
    return picture.resize((thick, height) if across else (width, thick), Image.Resampling.BILINEAR, box=inside)
