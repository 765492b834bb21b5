"""Occlusion instance augmentation: a hard-edged cut-out in a corner, FCFormer's way."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch

from occplug.config.ranges import SHARE
from occplug.errors import ConfigError
from occplug.occluders import Cutout, read_library
from occplug.registry import TRANSFORMS, defaults_of
from occplug.transforms.occlusion import Occluded, Occlusion
from occplug.transforms.pasting import Layer, Light, lay
from occplug.transforms.shapes import Shapes

__all__ = ["OIA"]

AREAS = ("class", "uniform")
LEAST, MOST = 0.1, 0.6
OWN_LIGHT = Light("none", 0, 0, 1)


@TRANSFORMS.register_module("oia")
class OIA(Occlusion):
    """Lay a cut-out over an image, with a hard edge, in its own colours, in the corner of its class.

    OIA of FCFormer (arXiv 2303.10976). Its own numbers could not be read; shares and corners are those of MGCC's
    released code, which uses it too. A class is drawn uniformly among those of the category table that have OIA numbers
    and are in the library, then one of its cut-outs.

    Args:
        prob: probability that an image is occluded.
        library, categories: as for `rwoa`.
        area: "class": the cut-out's box covers the share of the image that its class states, in the corner of its
            class; "uniform", as MGCC's paper says: the share is uniform in [0.1, 0.6] and the place across is too.

    Raises:
        ConfigError: a value that cannot be; names the key.
        DataError: a library that cannot be used, as `read_library`.
    """

    choices = {"area": AREAS}
    ranges = {"prob": SHARE}

    def __init__(self, prob: float = 0.5, library: str = "", categories: str = "", area: str = "class"):
        super().__init__("oia", prob)
        if area not in AREAS:
            raise ConfigError(f"augment.oia.area is {area!r}; there are: {', '.join(AREAS)}")
        self.area, self.library = area, read_library(library, "train", categories)
        of_category = self.library.by_category
        self.groups = [of_category[c.name] for c in self.library.table.values() if c.oia_area and c.name in of_category]
        if not self.groups:
            raise ConfigError(f"augment.oia.library: no category in {self.library.folder} is a class of OIA")
        self.shapes = Shapes(self.library, feather=None)

    defaults = defaults_of(__init__)

    def prepare(self, height: int, width: int) -> None:
        """Make the size ahead that each cut-out has in images of that size, where `area` is "class"."""
        if self.area == "class":
            cutouts = list(itertools.chain.from_iterable(self.groups))
            self.shapes.keep([(each, _size(each, each.category.oia_area or 0, height, width)) for each in cutouts])

    def occlude(self, pixels: np.ndarray) -> Occluded:
        """Lay an occluder over `pixels`, uint8 [3, H, W], contiguous."""
        category, which, share, across = torch.rand(4, dtype=torch.float64).tolist()
        group = self.groups[int(category * len(self.groups))]
        cutout = group[int(which * len(group))]
        height, width = pixels.shape[1:]
        share = cutout.category.oia_area or 0 if self.area == "class" else LEAST + (MOST - LEAST) * share
        h, w = _size(cutout, share, height, width)
        top, left = _corner(cutout.category.oia_corner or "", h, w, height, width)
        if self.area == "uniform":
            left = round((width - w) * across)
        index = cutout.category.index
        layer = Layer(self.shapes(cutout, (h, w)), False, (top, left), (height, width), index)
        lay(layer, pixels, OWN_LIGHT)
        return Occluded(layer.hides, layer.category)


def _corner(name: str, h: int, w: int, height: int, width: int) -> tuple[int, int]:
    row, column = name.split("-")
    top = {"bottom": height - h, "top": 0, "middle": height // 2 - h}[row]  # middle: the lower edge is at half height
    return top, 0 if column == "left" else width - w


def _size(cutout: Cutout, share: float, height: int, width: int) -> tuple[int, int]:
    """Height and width of a cut-out whose box covers that share of an image."""
    h = math.sqrt(share * height * width / cutout.aspect)
    return max(1, round(h)), max(1, round(cutout.aspect * h))
