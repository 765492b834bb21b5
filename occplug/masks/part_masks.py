"""Part labels of training images, after whatever has been done to the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision import tv_tensors

from occplug.errors import ConfigError
from occplug.masks.labels import CELL, group_channels, part_labels, places, sample_maps
from occplug.masks.sources import MaskSource

__all__ = ["PartMasks"]


class PartMasks:
    """Part labels at a quarter of the image's size.

    `places` goes through an image's transforms beside it; `labels` then reads the mask at what is left of it.

    Args:
        sources: of the masks, one per training set.
        height, width: of the images in pixels.

    Raises:
        ConfigError: a size that is no multiple of 4.
    """

    def __init__(self, sources: Sequence[MaskSource], height: int, width: int):
        if height % CELL or width % CELL:
            raise ConfigError(
                f"data.height and data.width are {height} and {width}; with part masks both must be multiples of {CELL}"
            )
        self.sources, self.height, self.width = sources, height, width
        self._places = places(height, width)

    @property
    def places(self) -> tv_tensors.Mask:
        """int32 [1, height, width], not to be changed."""
        return self._places

    def labels(self, images: Sequence[tuple[str, int]], moved: Tensor) -> Tensor:
        """The labels m of transformed images.

        Args:
            images: of each image its path and the number of its source.
            moved: [B, 1, height, width], `places` after the transforms.
        Returns:
            float32 [B, K + 1, height / 4, width / 4], background first; the channels of a position sum to 1.
        """
        kept = moved.as_subclass(Tensor)[:, 0, ::CELL, ::CELL]  # nearest resize to a quarter keeps these
        return torch.stack([self._label(self.sources[source], path, at) for (path, source), at in zip(images, kept)])

    def _label(self, source: MaskSource, image: str, at: Tensor) -> Tensor:
        values = sample_maps(source.maps(image), at, self.height, self.width, source.interpolation)
        return part_labels(group_channels(values, source.groups))
