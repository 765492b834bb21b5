"""A strip of another training image at a border of the image, OAMN's occluders."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import torch

from occplug.config.ranges import SHARE
from occplug.errors import ConfigError
from occplug.registry import TRANSFORMS, defaults_of
from occplug.transforms.jitter import enhance
from occplug.transforms.occlusion import CLEAN, Occluded, Occlusion
from occplug.transforms.resampling import Box, Lines, resized_part
from occplug.utils.measuring import GB, room_ahead

__all__ = ["OAMN"]

log = logging.getLogger(__name__)
_ORDERS = tuple(permutations(range(3)))  # of brightness, contrast and saturation
# (path, reader) -> lines, for all pipelines of a process, as long as one of them is in use
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
        self.jitter = jitter
        self.items: Sequence = ()
        self._decoded: dict[str, Lines] = {}

    defaults = defaults_of(__init__)

    def bind(self, items: Sequence, read: Callable) -> None:
        """Say where strips come from: `items` are rows (path, ...), `read(path)` gives an RGB picture or its pixels."""
        self.items, self.read, self._decoded = items, read, {}

    def prepare(self, height: int, width: int) -> None:
        """Decode training images ahead, as far as there is memory for them; results are the same without it."""
        room = room_ahead() - sum(lines.nbytes for lines in _DECODED.values())
        for path, *_ in self.items:
            lines = _DECODED.get((path, self.read))
            if lines is None and room > 0:
                _DECODED[path, self.read] = lines = Lines.of(self.read(path))
                room -= lines.nbytes
            if lines is not None:
                self._decoded[path] = lines
        if self._decoded:
            taken = sum(lines.nbytes for lines in self._decoded.values()) / GB
            log.info("oamn: %d of %d images decoded ahead, %.2f GB", len(self._decoded), len(self.items), taken)

    def __getstate__(self) -> dict:
        # a process that is spawned decodes images when it needs them; one that is forked has them already
        return {**self.__dict__, "_decoded": {}}

    def _lines(self, path: str) -> Lines:
        kept = self._decoded.get(path)
        return Lines.of(self.read(path)) if kept is None else kept

    def occlude(self, pixels: np.ndarray) -> Occluded:
        """Put a strip before `pixels`, uint8 [3, H, W]."""
        if not self.items:
            raise ConfigError("oamn cuts its strips from training images, and none were bound; call bind(items, read)")
        # all at once, because each call of torch takes as long as a tenth of the strip
        which, upright, share, place, far, mirror, order, *factors = torch.rand(10, dtype=torch.float64).tolist()
        height, width = pixels.shape[1:]
        whole, across = (width, True) if upright < 0.5 else (height, False)
        thick = round(whole * (1 + share) / 4)
        start = int(far * 2) * (whole - thick)
        lines = self._lines(self.items[int(which * len(self.items))][0])
        box = _box(lines.rows, (height, width), thick, place, across)
        strip = resized_part(lines, box, height if across else thick, thick if across else width, mirror < 0.5)
        enhance(strip, _ORDERS[int(order * 6)], [1 + self.jitter * (2 * factor - 1) for factor in factors])
        along = slice(start, start + thick)
        rows, columns = (slice(None), along) if across else (along, slice(None))
        pixels[:, rows, columns] = strip

        def hides() -> np.ndarray:
            alpha = np.zeros((height, width), np.uint8)
            alpha[rows, columns] = 255
            return alpha

        return Occluded(hides, CLEAN)


def _box(rows: np.ndarray, size: tuple[int, int], thick: int, place: float, across: bool) -> Box:
    """Where a strip is cut from a picture, `rows` uint8 [H, 3, W].

    Args:
        size: of the strip's image, in pixels.
        thick: width (`across`) or height of the strip there.
        place: in [0, 1), from the left or from above.
    """
    height, width = rows.shape[::2]
    whole, new = (width, size[1]) if across else (height, size[0])
    start = place * (new - thick)
    low, high = start * (whole / new), min((start + thick) * (whole / new), whole)  # rounding may leave the picture
    return (low, 0.0, high, float(height)) if across else (0.0, low, float(width), high)
