"""Batch-hard triplet loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.registry import LOSSES

__all__ = ["BatchHardTriplet"]


@LOSSES.register_module("batch_hard_triplet")
class BatchHardTriplet(nn.Module):
    r"""Farthest positive against nearest negative of each anchor.

    Hermans et al., arXiv 1703.07737, as in CLIP-ReID's official code: Euclidean distances
    sqrt(max(|a|^2 + |b|^2 - 2ab, 1e-12)) of the features as they are (not normalised), then

        margin m:     mean_a max(0, d(a, p) - d(a, n) + m)
        soft margin:  mean_a log(1 + exp(d(a, p) - d(a, n))).

    The anchor itself is among its positives (at distance 1e-6), so identities may have any number of images; the
    official mining needs the same number for each. Anchors without a negative in the batch are left out, and with
    no negatives at all (one identity) the loss is zero.

    Args:
        margin: in units of distance, or None for the soft margin.
    """

    def __init__(self, margin: float | None = 0.3):
        super().__init__()
        self.margin = margin

    def forward(self, features: Tensor, labels: Tensor, ineligible: Tensor | None = None) -> Tensor:
        """`features` [B, D], `labels` [B] -> scalar float32.

        Args:
            ineligible: [B, B] bool, True where image j may not be a negative of anchor i.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            square = features.pow(2).sum(dim=1)
            squared = square[:, None] + square[None, :] - 2 * features @ features.T
            distance = squared.clamp(min=1e-12).sqrt()  # [B, B]
            same = labels[:, None] == labels[None, :]
            hardest_positive = distance.masked_fill(~same, float("-inf")).amax(dim=1)
            negative = ~same if ineligible is None else ~same & ~ineligible
            hardest_negative = distance.masked_fill(~negative, float("inf")).amin(dim=1)
            valid = negative.any(dim=1)
            # minus infinity has loss 0; taking the valid rows out would wait for the device to count them
            gap = torch.where(valid, hardest_positive - hardest_negative, float("-inf"))
            per_anchor = F.softplus(gap) if self.margin is None else F.relu(gap + self.margin)
            return per_anchor.sum() / valid.sum().clamp(min=1)
