"""Whole pictures covered to a wanted share by a cut-out that comes in from one side, the same way every time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from occplug.errors import ConfigError, DataError
from occplug.occluders.library import Cutout, Library
from occplug.utils.imagefile import read_image

__all__ = ["SIDES", "Cover", "covered"]

SIDES = ("bottom", "left", "right", "top")
SCALES = (1.0, 1.3, 1.7, 2.2)  # sizes of a cut-out, in that which just spans the picture; the first that suffices
OPAQUE = 128  # from this alpha on a pixel counts as covered


@dataclass(frozen=True)
class Cover:
    """How the pictures of a test are covered; picklable, for loading processes.

    Args:
        library: cut-outs.
        share: of the picture's pixels, from 0 to 1.
        most: the largest share of the series that this one is of. Whatever covers a picture can cover so much of it,
            so that over a series the same cut-out only comes in further.
        kinds: categories; each picture gets one of them.   sides: as `kinds`.
        seed: of the choices, with the name of each picture's file.

    Raises:
        ConfigError: a share or side that is none, a kind that the library has not, or `share` above `most`.
    """

    library: Library
    share: float
    most: float = 0.7
    kinds: tuple[str, ...] = ()
    sides: tuple[str, ...] = SIDES
    seed: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= self.most < 1:
            raise ConfigError(f"shares of a picture are from 0 to below 1, got {self.share:g} of at most {self.most:g}")
        known = self.library.by_category
        for kind in self.kinds:
            if kind not in known:
                raise ConfigError(f"the library has no {kind!r}; it has: {', '.join(known)}")
        for side in self.sides:
            if side not in SIDES:
                raise ConfigError(f"there is no side {side!r}; there are: {', '.join(SIDES)}")

    def choice(self, name: str) -> tuple[str, str]:
        """Kind, if it can cover so much, and side of the picture in the file called `name`."""
        draw = self._draw(name)
        kinds = self.kinds or tuple(self.library.by_category)
        return kinds[draw.integers(len(kinds))], self.sides[draw.integers(len(self.sides))]

    def read(self, path: str) -> Image.Image:
        """The picture in file `path`, covered. Raises DataError as `read_image`, and as `covered`."""
        picture = read_image(path)
        if not self.share:
            return picture
        name = Path(path).name
        kind, side = self.choice(name)
        allowed = [cutout for cutout in self.library.cutouts if not self.kinds or cutout.category.name in self.kinds]
        order = self._draw(name, 1).permutation(len(allowed))
        # the chosen kind first; one of thin things covers little, and then it is another
        pool = sorted((allowed[n] for n in order), key=lambda cutout: cutout.category.name != kind)
        return Image.fromarray(covered(np.asarray(picture), pool, side, self.share, self.most)[0])

    def _draw(self, name: str, purpose: int = 0) -> np.random.Generator:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]
        return np.random.default_rng([self.seed, purpose, int.from_bytes(digest, "little")])


def covered(
    picture: np.ndarray, pool: list[Cutout], side: str, share: float, most: float
) -> tuple[np.ndarray, np.ndarray]:
    """`picture`, uint8 [H, W, 3], with a cut-out before it that comes in from `side`, and what is covered, bool [H, W].

    The first cut-out of `pool` is taken, in the smallest of SCALES, that can cover `most` of the picture; it comes in
    until it covers `share`, to a row or column of pixels.

    Raises:
        DataError: no cut-out covers so much.
    """
    height, width = picture.shape[:2]
    for cutout in pool:
        for scale in SCALES:
            layer = _spanning(cutout.rgba, height, width, side, scale)
            lines = (layer[..., 3] >= OPAQUE).sum(axis=1 if side in ("bottom", "top") else 0)
            reach = np.cumsum(lines if side in ("bottom", "right") else lines[::-1])
            if reach[-1] >= most * height * width:
                return _pasted(picture, layer, side, int(np.searchsorted(reach, share * height * width)) + 1)
    raise DataError(f"no occluder of the library covers {most:.0%} of a picture; take a library of more solid things")


def _spanning(rgba: np.ndarray, height: int, width: int, side: str, scale: float) -> np.ndarray:
    """The part of a cut-out, [H, W, 4], that is before the picture when it has come in all the way.

    It is scaled to span the picture both ways, times `scale`; its leading edge is kept, across it is centred.
    """
    factor = scale * max(height / rgba.shape[0], width / rgba.shape[1])
    size = (max(width, round(rgba.shape[1] * factor)), max(height, round(rgba.shape[0] * factor)))
    large = cv2.resize(rgba, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    top = {"bottom": 0, "top": large.shape[0] - height}.get(side, top)
    left = {"right": 0, "left": large.shape[1] - width}.get(side, left)
    return large[top : top + height, left : left + width]


def _pasted(picture: np.ndarray, layer: np.ndarray, side: str, lines: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `lines` rows or columns of `layer`, from its leading edge, moved to `side` of the picture."""
    height, width = picture.shape[:2]
    part = {
        "bottom": layer[:lines],
        "top": layer[height - lines :],
        "right": layer[:, :lines],
        "left": layer[:, width - lines :],
    }[side]
    top = height - part.shape[0] if side == "bottom" else 0
    left = width - part.shape[1] if side == "right" else 0
    place = (slice(top, top + part.shape[0]), slice(left, left + part.shape[1]))
    result, mask = picture.copy(), np.zeros((height, width), bool)
    alpha = part[..., 3:].astype(np.float32) / 255
    mixed = part[..., :3] + (1 - alpha) * result[place]  # colours are premultiplied
    result[place] = mixed.round().clip(0, 255).astype(np.uint8)
    mask[place] = part[..., 3] >= OPAQUE
    return result, mask
