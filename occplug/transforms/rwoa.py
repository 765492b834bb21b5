"""Real-world occlusion augmentation: cut-outs of real things, placed as they stand, in the light of the image."""

from __future__ import annotations

import itertools
from bisect import bisect_right

import numpy as np
import torch

from occplug.config.ranges import ABOVE_0, SHARE
from occplug.errors import ConfigError
from occplug.occluders import Cutout, read_library
from occplug.registry import TRANSFORMS, defaults_of
from occplug.transforms.occlusion import Occluded, Occlusion
from occplug.transforms.pasting import Layer, Light, lay
from occplug.transforms.placing import pasted_size, pasted_sizes, position
from occplug.transforms.shapes import Shapes

__all__ = ["RWOA"]

MODES = ("luma", "adain", "none")
MISFIT = ("leave", "nearest")
_DRAWS = 7  # category, cut-out, mirror, cover, across, down, side


@TRANSFORMS.register_module("rwoa")
class RWOA(Occlusion):
    """Lay an occluder of a library over an image: DPL-ReID (arXiv 2605.19527), figures 4 and 6, as we read them.

    A category is drawn by weight and one of its cut-outs uniformly, mirrored half of the time, sized to the share of
    the image that the category should hide, placed as the category stands, feathered and aligned with the light of its
    surroundings. If it hides less than `min_cover` or more than `max_cover`, all is drawn again.

    Args:
        prob: probability that an image is occluded.
        library: folder of the occluder library; empty for the one that comes with the package.
        categories: file of the category table; empty for the package's own.
        area_scale: factor on the category's share of the image.
        min_cover, max_cover: mean alpha over the image must lie between.
        feather: width of the soft border, as a share of the cut-out's shorter side; 0: the cut-out's own border.
        align: "luma", "adain" (per colour) or "none"; see `pasting.Light`.
        brightness, contrast, min_contrast: strengths of the alignment and its smallest factor.
        anchors: place by category; else anywhere, at least half inside.
        attempts: after so many misfits `misfit` decides.
        misfit: "leave" the image as it is, or take the "nearest" to the range. Counted in `tally` either way.

    Raises:
        ConfigError: a value that cannot be; names the key.
        DataError: a library that cannot be used, as `read_library`.
    """

    choices = {"align": MODES, "misfit": MISFIT}
    ranges = {
        **dict.fromkeys(("prob", "min_cover", "max_cover", "feather"), SHARE),
        **dict.fromkeys(("brightness", "contrast", "min_contrast"), SHARE),
        "area_scale": ABOVE_0,
        "attempts": (1, 10_000),
    }

    def __init__(
        self, prob=0.5, library="", categories="", area_scale=1.0, min_cover=0.05, max_cover=0.60, feather=0.03,
        align="luma", brightness=0.5, contrast=0.5, min_contrast=0.6, anchors=True, attempts=10, misfit="leave",
    ):  # fmt: skip
        super().__init__("rwoa", prob)
        if not 0 <= min_cover < max_cover <= 1:
            raise ConfigError(
                f"augment.rwoa: the cover range is impossible: min_cover is {min_cover} and max_cover {max_cover}; "
                "they must be 0 <= min_cover < max_cover <= 1"
            )
        for key, value in (("align", align), ("misfit", misfit)):
            if value not in (allowed := MODES if key == "align" else MISFIT):
                raise ConfigError(f"augment.rwoa.{key} is {value!r}; there are: {', '.join(allowed)}")
        shares = {"brightness": brightness, "contrast": contrast, "min_contrast": min_contrast, "feather": feather}
        for key, value in shares.items():
            if not 0 <= value <= 1:
                raise ConfigError(f"augment.rwoa.{key} is {value}; it must be from 0 to 1")
        if area_scale <= 0 or attempts < 1:
            raise ConfigError(f"augment.rwoa: area_scale is {area_scale} and attempts {attempts}; both must be above 0")
        self.library = read_library(library, "train", categories)
        self.shapes = Shapes(self.library, feather)
        self.area_scale, self.anchors = area_scale, anchors
        self.range, self.attempts, self.misfit = (min_cover, max_cover), attempts, misfit
        self.light = Light(align, brightness, contrast, min_contrast)
        self._weigh()

    defaults = defaults_of(__init__)

    def _weigh(self) -> None:
        present = [c for c in self.library.table.values() if c.weight > 0 and c.name in self.library.by_category]
        if not present:
            raise ConfigError(f"augment.rwoa.library: no category in {self.library.folder} has a weight above 0")
        self.groups = [self.library.by_category[category.name] for category in present]
        self.bounds = list(itertools.accumulate(category.weight for category in present))

    def prepare(self, height: int, width: int) -> None:
        """Make the sizes ahead that cut-outs can have in images of that size; results are the same without it."""
        wanted = [
            (cutout, size)
            for cutout in itertools.chain.from_iterable(self.groups)
            for size in pasted_sizes(cutout.aspect, cutout.alpha_mean, self._covers(cutout), height, width)
        ]
        self.shapes.keep(wanted)

    def _covers(self, cutout: Cutout) -> tuple[float, float]:
        low, high = cutout.category.cover
        return self.area_scale * low, self.area_scale * high

    def occlude(self, pixels: np.ndarray) -> Occluded | None:
        """Lay an occluder over `pixels`, uint8 [3, H, W], contiguous; None if no attempt fits."""
        low, high = self.range
        nearest: Layer | None = None
        least = float("inf")
        for _ in range(self.attempts):
            layer = self._attempt(pixels.shape[1:])
            if layer is None:
                continue
            cover = layer.hidden / pixels[0].size
            distance = max(low - cover, cover - high, 0.0)
            if distance < least:
                nearest, least = layer, distance
            if distance == 0:
                break
        if nearest is None or (least > 0 and self.misfit == "leave"):
            return None
        if least > 0:
            self.tally.add("misfits")
        lay(nearest, pixels, self.light)
        return Occluded(nearest.hides, nearest.category)

    def _attempt(self, image: tuple[int, int]) -> Layer | None:
        """One occluder at its place in an image of size (H, W); None if it is mostly outside."""
        category, which, mirror, cover, *place = torch.rand(_DRAWS, dtype=torch.float64).tolist()
        cutout = self._choose(category, which)
        low, high = self._covers(cutout)
        wanted = low + (high - low) * cover
        size = pasted_size(cutout.aspect, cutout.alpha_mean, wanted, *image)
        corner = position(cutout.category.anchor if self.anchors else "any", size, image, tuple(place))
        if corner is None:
            return None
        return Layer(self.shapes(cutout, size), mirror < 0.5, corner, image, cutout.category.index)

    def _choose(self, category: float, which: float) -> Cutout:
        """Two uniform draws -> category by weight, cut-out uniformly."""
        group = self.groups[bisect_right(self.bounds, category * self.bounds[-1])]
        return group[int(which * len(group))]
