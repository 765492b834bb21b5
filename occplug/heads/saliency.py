"""Salient patch selection (SPS): which patches show the person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from occplug.backbones.position import bound_grid
from occplug.backbones.resampling import nearest
from occplug.backbones.tower import stream_to_map
from occplug.distributed import SplitImages, per_image
from occplug.errors import ConfigError
from occplug.heads.bnneck import BNNeck
from occplug.registry import HEADS

__all__ = ["SaliencyNet", "checked_levels"]


def checked_levels(levels: Sequence[int], depth: int, key: str) -> tuple[int, ...]:
    """`levels`, which are different block numbers from 1 to `depth`; if empty, those of DPM's code at this depth.

    DPM takes blocks 2, 4, 10 and 12 of 12; of four blocks or fewer all are taken. Negative numbers count from the last
    block, which is -1.

    Raises:
        ConfigError: names `key`.
    """
    usual = [round(depth * level / 12) for level in (2, 4, 10, 12)] if depth > 4 else list(range(1, depth + 1))
    levels = list(levels) or usual
    numbers = [level + depth + 1 if type(level) is int and level < 0 else level for level in levels]
    wrong = [number for number in numbers if type(number) is not int or not 1 <= number <= depth]
    if wrong or len(set(numbers)) != len(numbers):
        raise ConfigError(
            f"{key} is {levels}; it must name different blocks of the backbone, which has blocks 1 to {depth}"
        )
    return tuple(numbers)


@dataclass(frozen=True)
class _Scaled:
    """A change of embedded patches [B, N, C]: times `factors` [B, N, 1]."""

    factors: Tensor

    def __call__(self, patches: Tensor) -> Tensor:
        return patches * self.factors.to(patches.dtype)

    def shard(self, images: SplitImages, tower: nn.Module) -> _Scaled:
        """The change for this rank's images."""
        return _Scaled(images.plan.deal(self.factors))

    def take(self, rows: slice) -> _Scaled:
        """The change for some of them."""
        return _Scaled(self.factors[rows])


@HEADS.register_module("saliency_net")
class SaliencyNet(nn.Module):
    r"""A backbone of its own with a decision layer that says how salient each patch is.

    SPT (AAAI 2024) and DPM++ (arXiv 2605.06637), eq. 3-4, in the form of SPT's official code:

        s = sigmoid(w * concat(F_l, l in levels) + b)         F_l: patches after block l, before the final norm

    In training the F_l are detached: the decision layer learns only through what images look like with their patch
    embeddings multiplied by s, and through the budget.

    Args:
        backbone: a tower without camera embedding, whose embedded patches can be changed.
        num_classes: training identities.
        levels: block numbers (from 1), in the order of their channels; empty for DPM's.
        key: config key of the levels, for messages.

    Raises:
        ConfigError: a level that is no block of the backbone.
    """

    def __init__(self, backbone: Any, num_classes: int, levels: Sequence[int], key: str = "levels"):
        super().__init__()
        self.backbone, self.levels = backbone, checked_levels(levels, len(backbone.level_widths), key)
        self.decision = nn.Conv2d(sum(backbone.level_widths[level] for level in self.levels), 1, kernel_size=1)
        self.neck = BNNeck(backbone.widths[1], num_classes)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the saliency maps."""
        return self.backbone.level_grid

    def bound_to(self) -> dict[str, str]:
        """Its blocks and grid, as `Method.bound_to`: a decision on others may have the same shape and means nothing."""
        levels = {"method.saliency.levels": str(list(self.levels))}
        return levels | bound_grid(self.grid, "method.saliency.stride")

    def decide(self, streams: dict[int, Tensor]) -> Tensor:
        """Saliency [B, N] in (0, 1) from block outputs by number: streams [B, P + N, C], or maps [B, C, h, w]."""
        levels = [stream_to_map(streams[level].detach(), self.grid, self.backbone.num_prefix) for level in self.levels]
        return self.decision(torch.cat(levels, dim=1)).flatten(1).float().sigmoid()

    def on_patches(self, saliency: Tensor) -> Tensor:
        """`saliency` [B, N] on the grid of the embedded patches, the nearest value each: [B, N']."""
        if self.backbone.patch_grid == self.grid:
            return saliency
        return nearest(saliency.unflatten(1, self.grid), self.backbone.patch_grid).flatten(1)

    def saliency(self, images: Tensor) -> Tensor:
        """Saliency [B, N] of `images` [B, 3, H, W]."""
        return per_image(lambda some: self.decide(self.backbone(some, blocks=self.levels).blocks), images)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The three passes of training.

        Returns: feature of the plain image [B, C]; its logits [B, num_classes]; saliency [B, N]; logits of the image
            with patch embeddings times s, and times 1 - s.
        """
        features = self.backbone(images, blocks=self.levels)
        saliency = self.decide(features.blocks)
        scales = self.on_patches(saliency)[:, :, None]
        kept = self.backbone(images, change=_Scaled(scales)).feature
        dropped = self.backbone(images, change=_Scaled(1 - scales)).feature
        logits = [self.neck(feature)[1] for feature in (features.feature, kept, dropped)]
        return features.feature, logits[0], saliency, logits[1], logits[2]
