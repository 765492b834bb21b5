"""Salient patch selection (SPS): which patches show the person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from occplug.backbones.position import bound_grid
from occplug.distributed import SplitImages, per_image
from occplug.errors import ConfigError
from occplug.heads.bnneck import BNNeck
from occplug.registry import HEADS

__all__ = ["SaliencyNet", "checked_levels"]


def checked_levels(levels: Sequence[int], depth: int, key: str) -> tuple[int, ...]:
    """`levels`, which are different block numbers from 1 to `depth`; if empty, those of DPM's code at this depth.

    DPM takes blocks 2, 4, 10 and 12 of 12. Negative numbers count from the last block, which is -1.

    Raises:
        ConfigError: names `key`.
    """
    levels = list(levels) or [round(depth * level / 12) for level in (2, 4, 10, 12)]
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
        backbone: a :class:`TransformerTower` without camera embedding.
        num_classes: training identities.
        levels: block numbers (from 1), in the order of their channels; empty for DPM's.
        key: config key of the levels, for messages.

    Raises:
        ConfigError: a level that is no block of the backbone.
    """

    def __init__(self, backbone: Any, num_classes: int, levels: Sequence[int], key: str = "levels"):
        super().__init__()
        self.backbone, self.levels = backbone, checked_levels(levels, backbone.depth, key)
        width = backbone.widths[1]
        self.decision = nn.Conv2d(width * len(self.levels), 1, kernel_size=1)
        self.neck = BNNeck(width, num_classes)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the saliency maps."""
        return self.backbone.grid

    def bound_to(self) -> dict[str, str]:
        """Its blocks and grid, as `Method.bound_to`: a decision on others may have the same shape and means nothing."""
        levels = {"method.saliency.levels": str(list(self.levels))}
        return levels | bound_grid(self.grid, "method.saliency.stride")

    def decide(self, streams: dict[int, Tensor]) -> Tensor:
        """Saliency [B, N] in (0, 1) from block outputs [B, 1 + N, C] by number."""
        patches = torch.cat([streams[level][:, 1:] for level in self.levels], dim=2)  # [B, N, 4C]
        maps = patches.detach().transpose(1, 2).unflatten(2, self.grid)
        return self.decision(maps).flatten(1).float().sigmoid()

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
        scales = saliency[:, :, None]
        kept = self.backbone(images, change=_Scaled(scales)).feature
        dropped = self.backbone(images, change=_Scaled(1 - scales)).feature
        logits = [self.neck(feature)[1] for feature in (features.feature, kept, dropped)]
        return features.feature, logits[0], saliency, logits[1], logits[2]
