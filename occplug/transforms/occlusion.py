"""What the transforms that put something before a person have in common."""

from __future__ import annotations

import logging
from abc import abstractmethod
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
    """An image with something before it.

    Args:
        pixels: uint8 [3, H, W].
        alpha: uint8 [H, W], 255 where the occluder hides the image; other than 0 exactly where pixels were mixed.
        category: index in the category table; CLEAN for none, or for what has no category.
    """

    pixels: np.ndarray
    alpha: np.ndarray
    category: int


class Tally:
    """Numbers of events, summed over the main process and all data loading workers, forked or spawned."""

    def __init__(self, *names: str):
        self.names = names
        # a slot per process, because adding to memory that others write is not atomic
        self.slots = torch.zeros(_SLOTS, len(names), dtype=torch.int64).share_memory_()

    def add(self, name: str) -> int:
        """Count one event; returns how many this process has counted."""
        worker = get_worker_info()
        row = 0 if worker is None else 1 + worker.id % (_SLOTS - 1)
        column = self.names.index(name)
        slots = self.slots.numpy()  # the same memory; torch's own indexing takes ten times as long
        slots[row, column] += 1
        return int(slots[row, column])

    def __getitem__(self, name: str) -> int:
        return int(self.slots[:, self.names.index(name)].sum())


class Occlusion(v2.Transform):
    """Base: draws whether an image is occluded, and hands out the mask.

    Called with an image, uint8 [3, H, W], it returns one of the same type. Called with a sample {"img": image, ...} it
    returns the sample with "img" and two entries more: "occlusion", the occluder's alpha as `tv_tensors.Mask`, uint8
    [1, H, W], 255 for opaque; and "occluder", the category's index in the category table, -1 for none. Other masks of
    the sample stay as they are. The image that was given is not changed. `tally` counts "seen" and "occluded" images
    and, where a subclass can fail, "misfits".

    A subclass has `occlude(pixels) -> Occluded | None`; None: nothing fits, the image stays as it is.

    Args:
        name: its key under `augment`, for messages.
        prob: probability that an image is occluded; drawn from torch's generator.

    Raises:
        ConfigError: `prob` is no probability.
    """

    level = "image"
    takes_tensors = True
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
            result = self._draw(sample)
            if result is None:
                return sample
            pixels = torch.from_numpy(result.pixels)
            return tv_tensors.wrap(pixels, like=sample) if isinstance(sample, tv_tensors.Image) else pixels
        image = sample["img"]
        result = self._draw(image)
        if result is None:
            alpha, category = torch.zeros((1, *image.shape[-2:]), dtype=torch.uint8), CLEAN
        else:
            image = tv_tensors.Image(torch.from_numpy(result.pixels))
            alpha, category = torch.from_numpy(result.alpha)[None], result.category
        return {**sample, "img": image, "occlusion": tv_tensors.Mask(alpha), "occluder": category}

    def _draw(self, image: Tensor) -> Occluded | None:
        image = image.as_subclass(Tensor)  # of whose subclasses each look at a shape takes microseconds
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3:
            raise ConfigError(f"{self.name} needs images of uint8 [3, H, W]; it got {image.dtype} {list(image.shape)}")
        self.tally.add("seen")
        if float(torch.rand(())) >= self.prob:
            return None
        result = self.occlude(image.numpy())
        if result is not None:
            self.tally.add("occluded")
            return result
        count = self.tally.add("misfits")
        if str(count).strip("0") == "1":  # 1, 10, 100, ...: enough to be noticed, too few to flood a log
            log.warning(
                "%s: no occluder fitted; the image stays as it is (%d so far in this process)", self.name, count
            )
        return None

    def summary(self) -> str:
        """What `tally` has counted, as a sentence; empty before the first image."""
        seen, occluded, misfits = (self.tally[name] for name in self.tally.names)
        if not seen:
            return ""
        return f"{self.name}: {occluded} of {seen} images occluded, no occluder fitted into {misfits}"

    @abstractmethod
    def occlude(self, pixels: np.ndarray) -> Occluded | None:
        """uint8 [3, H, W], not to be changed -> the occluded image."""
