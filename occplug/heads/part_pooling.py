"""Part features as weighted means of patch features: what ProFD has in place of a decoder in its ablation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.registry import HEADS

__all__ = ["CosinePooling", "MaskPooling", "PartRows", "cosine_maps", "weighted_average_pool"]


@dataclass
class PartRows:
    """What a part decoder makes of B images.

    Args:
        rows: [B, K + 2, D], background, whole person, K parts.
        attention: [B, K + 2, L], where each row looks among the patches, or None if the decoder has no such map that
            masks could supervise.
    """

    rows: Tensor
    attention: Tensor | None = None


def cosine_maps(tokens: Tensor, queries: Tensor) -> Tensor:
    """[B, R, L]: cosine of each of `queries` [R, D] with each of the patches `tokens` [B, L, D]."""
    return F.normalize(queries.float(), dim=-1) @ F.normalize(tokens.float(), dim=-1).transpose(1, 2)


def weighted_average_pool(tokens: Tensor, weights: Tensor) -> Tensor:
    """[B, R, D]: means of the patches `tokens` [B, L, D] under `weights` [B, R, L]; zeros where no weight is.

    ProFD's WAP (arXiv 2409.20081, eq. 17): sum_l w_l F_l / max(sum_l w_l, 1e-6).
    """
    return weights @ tokens.to(weights) / weights.sum(dim=2, keepdim=True).clamp(min=1e-6)


@HEADS.register_module("cosine_pooling")
class CosinePooling(nn.Module):
    """Patches pooled where they agree with the texts; no parameters (ProFD's table 3, row 0, official code).

    A = softmax over the patches of gain * cosine, rows = A F.

    Args:
        gain: factor on the cosines.
    """

    def __init__(self, gain: float = 10.0):
        super().__init__()
        self.gain = gain

    def forward(self, queries: Tensor, tokens: Tensor, labels: Tensor | None = None) -> PartRows:
        """`queries` [K + 2, D], `tokens` [B, L, D]; `labels` are not used."""
        attention = (self.gain * cosine_maps(tokens, queries)).softmax(dim=2)
        return PartRows(attention @ tokens.to(attention), attention)


@HEADS.register_module("mask_pooling")
class MaskPooling(nn.Module):
    """Patches pooled by the part labels of the masks, by the parsing the texts predict where there are none (at test).

    The other parameter-free baseline of ProFD's official code. The prediction is the softmax over background and parts
    of gain * cosine, which the spatial alignment loss trains.

    Args:
        gain: factor on the cosines, the alignment's.
    """

    def __init__(self, gain: float = 5.0):
        super().__init__()
        self.gain = gain

    def forward(self, queries: Tensor, tokens: Tensor, labels: Tensor | None = None) -> PartRows:
        """`queries` [K + 2, D], `tokens` [B, L, D], `labels` [B, K + 1, h, w] or None; the map is no attention."""
        if labels is None:
            without_person = torch.cat([queries[:1], queries[2:]])
            labels = (self.gain * cosine_maps(tokens, without_person)).softmax(dim=1)
        labels = labels.flatten(2)
        weights = torch.cat([labels[:, :1], 1 - labels[:, :1], labels[:, 1:]], dim=1)
        return PartRows(weighted_average_pool(tokens, weights))
