"""A strip of another training image at a border of the image, OAMN's occluders."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import torch

from occplug.config.ranges import SHARE
from occplug.errors import ConfigError
from occplug.registry import TRANSFORMS, defaults_of
from occplug.transforms.jitter import Jitter
from occplug.transforms.occlusion import CLEAN, Occluded, Occlusion
from occplug.transforms.resampling import resized_picture
from occplug.utils.measuring import GB, room_ahead

__all__ = ["OAMN"]

log = logging.getLogger(__name__)
# (path, reader) -> pixels, for all pipelines of a process, as long as one of them is in use
_DECODED: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


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
        self.jitter = Jitter(jitter)
        self.items: Sequence = ()
        self._decoded: dict[str, np.ndarray] = {}

    defaults = defaults_of(__init__)

    def bind(self, items: Sequence, read: Callable) -> None:
        """Say where strips come from: `items` are rows (path, ...), `read(path)` gives an RGB picture or its pixels."""
        self.items, self.read, self._decoded = items, read, {}

    def prepare(self, height: int, width: int) -> None:
        """Decode training images ahead, as far as there is memory for them; results are the same without it."""
        room = room_ahead() - sum(pixels.nbytes for pixels in _DECODED.values())
        for path, *_ in self.items:
            pixels = _DECODED.get((path, self.read))
            if pixels is None and room > 0:
                _DECODED[path, self.read] = pixels = np.asarray(self.read(path))
                room -= pixels.nbytes
            if pixels is not None:
                self._decoded[path] = pixels
        if self._decoded:
            taken = sum(pixels.nbytes for pixels in self._decoded.values()) / GB
            log.info("oamn: %d of %d images decoded ahead, %.2f GB", len(self._decoded), len(self.items), taken)

    def __getstate__(self) -> dict:
        # a process that is spawned decodes images when it needs them; one that is forked has them already
        return {**self.__dict__, "_decoded": {}}

    def _picture(self, path: str) -> np.ndarray:
        """Pixels of a training image, uint8 [H, W, 3]."""
        kept = self._decoded.get(path)
        return np.asarray(self.read(path)) if kept is None else kept

    def occlude(self, pixels: np.ndarray) -> Occluded:
        """Put a strip before `pixels`, uint8 [3, H, W]."""
        if not self.items:
            raise ConfigError("oamn cuts its strips from training images, and none were bound; call bind(items, read)")
        which, upright, share, place, far, mirror = torch.rand(6, dtype=torch.float64).tolist()
        height, width = pixels.shape[1:]
        whole, across = (width, True) if upright < 0.5 else (height, False)
        thick = round(whole * (1 + share) / 4)
        start = int(far * 2) * (whole - thick)
        picture = self._picture(self.items[int(which * len(self.items))][0])
        strip = _strip(picture, (height, width), thick, place, across)
        top, left = (0, start) if across else (start, 0)
        rows, columns = slice(top, top + strip.shape[0]), slice(left, left + strip.shape[1])
        pixels[:, rows, columns] = (strip[:, ::-1] if mirror < 0.5 else strip).transpose(2, 0, 1)
        self.jitter(pixels, (top, left, *strip.shape[:2]))

        def hides() -> np.ndarray:
            alpha = np.zeros((height, width), np.uint8)
            alpha[rows, columns] = 255
            return alpha

        return Occluded(hides, CLEAN)


def _strip(picture: np.ndarray, size: tuple[int, int], thick: int, place: float, across: bool) -> np.ndarray:
    """A strip of `picture`, uint8 [H, W, 3], resized to `size`, at `place` in [0, 1): uint8 [h, w, 3].

    Args:
        thick: its width (`across`) or height, in pixels.
    """
    (height, width), (old_height, old_width) = size, picture.shape[:2]
    scale = (old_width / width, old_height / height)
    start = place * ((width if across else height) - thick)
    box = (start, 0, start + thick, height) if across else (0, start, width, start + thick)
    left, top, right, bottom = (value * scale[i % 2] for i, value in enumerate(box))
    inside = (left, top, min(right, old_width), min(bottom, old_height))  # rounding may leave the picture
    shape = (height, thick) if across else (thick, width)
    return np.asarray(resized_picture(picture, *shape, "bilinear", inside))
