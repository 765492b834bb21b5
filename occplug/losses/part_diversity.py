"""Parts that should not say the same."""

import torch
from torch import Tensor, nn

from occplug.errors import ConfigError
from occplug.registry import LOSSES

__all__ = ["PartDiversity"]


@LOSSES.register_module("part_diversity")
class PartDiversity(nn.Module):
    r"""Similarity of the part features of an image, pair by pair.

    ProFD (arXiv 2409.20081), eq. 12, with d_ij = |f_i . f_j| / (|f_i| |f_j| + 1e-6) over the pairs i < j:

        softmax (official code):  mean over images of  sum_pairs softmax_pairs(d) d,   gradient through the weights too
        mean:                     mean over images and pairs of d
        paper:                    half of that: eq. 12 divides the sum over K (K - 1) / 2 pairs by K (K - 1).

    Args:
        weighting: one of the three.

    Raises:
        ConfigError: another weighting.
    """

    WEIGHTINGS = ("softmax", "mean", "paper")

    def __init__(self, weighting: str = "softmax"):
        super().__init__()
        if weighting not in self.WEIGHTINGS:
            raise ConfigError(f"div_weighting is {weighting!r}; there are: {', '.join(self.WEIGHTINGS)}")
        self.weighting = weighting

    def forward(self, parts: Tensor) -> Tensor:
        """`parts` [B, K, D] -> scalar float32, 0 with a single part."""
        count = parts.shape[1]
        if count < 2:
            return parts.float().sum() * 0.0
        with torch.autocast(parts.device.type, enabled=False):
            parts = parts.float()
            lengths = parts.norm(dim=2)
            cosines = (parts @ parts.mT).abs() / (lengths[:, :, None] * lengths[:, None, :] + 1e-6)
            i, j = torch.triu_indices(count, count, offset=1, device=parts.device)
            d = cosines[:, i, j]  # [B, K (K - 1) / 2]
            if self.weighting == "softmax":
                return (d.softmax(dim=1) * d).sum(dim=1).mean()
            return d.mean() * (0.5 if self.weighting == "paper" else 1.0)
