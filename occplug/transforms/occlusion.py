"""What the transforms that put something before a person have in common."""

from __future__ import annotations

import functools
import logging
from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info
from torchvision import tv_tensors
from torchvision.transforms import v2

from occplug.errors import ConfigError

__all__ = ["CLEAN", "Occluded", "Occlusion", "Tally"]

log = logging.getLogger(__name__)
CLEAN = -1  # category index of an image without an occluder
_SLOTS = 256  # more worker processes than that share a slot, and may then miscount


class Occluded(NamedTuple):
    """What was put before an image.

    Args:
        hides: makes the alpha, uint8 [H, W], 255 where the occluder hides the image; other than 0 exactly where pixels
            were mixed. Most callers have no use for it.
        category: index in the category table; CLEAN for none, or for what has no category.
    """

    hides: Callable[[], np.ndarray]
    category: int


class Tally:
    """Numbers of events, summed over the main process and all data loading workers, forked or spawned."""

    def __init__(self, *names: str):
        self.names = names
        # a slot per process, because adding to memory that others write is not atomic
        self.slots = torch.zeros(_SLOTS, len(names), dtype=torch.int64).share_memory_()

    @functools.cached_property
    def _counts(self) -> memoryview:
        """The same memory, flat; torch's own indexing takes fifty times as long."""
        return memoryview(self.slots.numpy().reshape(-1))

    def __getstate__(self) -> dict:
        return {"names": self.names, "slots": self.slots}

    def add(self, *names: str) -> int:
        """Count one event of each; returns how many of the last this process has counted."""
        worker = get_worker_info()
        row = 0 if worker is None else 1 + worker.id % (_SLOTS - 1)
        for name in names:
            place = row * len(self.names) + self.names.index(name)
            self._counts[place] += 1
        return self._counts[place]

    def __getitem__(self, name: str) -> int:
        return int(self.slots[:, self.names.index(name)].sum())


class Occlusion(v2.Transform):
    """Base: draws whether an image is occluded, and hands out the mask.

    Called with an image, uint8 [3, H, W], it returns one of the same type. Called with a sample {"img": image, ...} it
    returns the sample with "img" and two entries more: "occlusion", the occluder's alpha as `tv_tensors.Mask`, uint8
    [1, H, W], 255 for opaque; and "occluder", the category's index in the category table, -1 for none. Other masks of
    the sample stay as they are. The image that was given is not changed. `tally` counts "seen" and "occluded" images
    and, where a subclass can fail, "misfits".

    A subclass has `occlude(pixels) -> Occluded | None`, which changes its pixels; None: nothing fits, the image stays
    as it is.

    Args:
        name: its key under `augment`, for messages.
        prob: probability that an image is occluded; drawn from torch's generator.

    Raises:
        ConfigError: `prob` is no probability.
    """

    level = "image"
    occludes = True
    provides = ("occlusion", "occluder")

    def __init__(self, name: str, prob: float):
        super().__init__()
        if not 0 <= prob <= 1:
            raise ConfigError(f"augment.{name}.prob is {prob}; it must be from 0 to 1")
        self.name, self.prob = name, prob
        self.tally = Tally("seen", "occluded", "misfits")

    def forward(self, sample):
        """An image [3, H, W], or a sample with one; as said above."""
        if not isinstance(sample, dict):
            image, result = self._draw(sample)
            is_wrapped = result is not None and isinstance(sample, tv_tensors.Image)
            return tv_tensors.wrap(image, like=sample) if is_wrapped else image
        image, result = self._draw(sample["img"])
        if result is None:
            alpha, category = torch.zeros((1, *image.shape[-2:]), dtype=torch.uint8), CLEAN
        else:
            image = tv_tensors.Image(image)
            alpha, category = torch.from_numpy(result.hides())[None], result.category
        return {**sample, "img": image, "occlusion": tv_tensors.Mask(alpha), "occluder": category}

    def in_place(self, image: Tensor) -> Tensor:
        """As a call with an image, uint8 [3, H, W], that nobody else needs: its pixels may be changed."""
        return self._draw(image, copy=False)[0]

    def _draw(self, given: Tensor, copy: bool = True) -> tuple[Tensor, Occluded | None]:
        """The image with what was put before it, or as it was."""
        image = given
        if type(image) is not Tensor:  # of whose subclasses each look at a shape takes microseconds
            image = image.as_subclass(Tensor)
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise ConfigError(f"{self.name} needs images of uint8 [3, H, W]; it got {image.dtype} {list(image.shape)}")
        if torch.rand(()).item() >= self.prob:
            self.tally.add("seen")
            return given, None
        image = image.clone(memory_format=torch.contiguous_format) if copy else image.contiguous()
        result = self.occlude(image.numpy())
        if result is not None:
            self.tally.add("seen", "occluded")
            return image, result
        count = self.tally.add("seen", "misfits")
        if str(count).strip("0") == "1":  # 1, 10, 100, ...: enough to be noticed, too few to flood a log
            log.warning(
                "%s: no occluder fitted; the image stays as it is (%d so far in this process)", self.name, count
            )
        return given, None

    def summary(self) -> str:
        """What `tally` has counted, as a sentence; empty before the first image."""
        seen, occluded, misfits = (self.tally[name] for name in self.tally.names)
        if not seen:
            return ""
        return f"{self.name}: {occluded} of {seen} images occluded, no occluder fitted into {misfits}"

    @abstractmethod
    def occlude(self, pixels: np.ndarray) -> Occluded | None:
        """Change `pixels`, uint8 [3, H, W], contiguous; where nothing fits, leave them as they are."""
