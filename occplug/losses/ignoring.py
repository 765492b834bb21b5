"""Cross entropy that leaves one class of each sample out of the softmax."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from occplug.registry import LOSSES

__all__ = ["IgnoringCrossEntropy", "kept_classes"]


def kept_classes(logits: Tensor, ignored: Tensor) -> Tensor:
    """[B, C] bool, False at class `ignored[i]` of row i; -1 ignores nothing."""
    classes = torch.arange(logits.shape[1], device=logits.device)
    return classes[None, :] != ignored[:, None]


@LOSSES.register_module("ignoring_cross_entropy")
class IgnoringCrossEntropy(nn.Module):
    r"""Label-smoothed cross entropy over all classes of a sample but the ignored one.

    The candidate-identity ignoring of DPM++ (arXiv 2605.06637, section 3.4): the ignored logit is minus infinity, which
    takes its class out of the softmax. The smoothing mass is spread over the K kept classes; over all of them the loss
    would be infinite:

        loss = mean_i [ (1 - eps) (-log p_i,y) + eps / K sum_{c kept} (-log p_i,c) ].

    Without an ignored class this is `torch.nn.functional.cross_entropy(..., label_smoothing=eps)`.

    Args:
        label_smoothing: eps in [0, 1].
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor, ignored: Tensor | None = None, reduction: str = "mean") -> Tensor:
        """`logits` [B, C], `labels` [B], `ignored` [B] (a class other than the label, or -1) -> scalar float32.

        With `reduction` "none" the loss of each sample, [B].
        """
        with torch.autocast(logits.device.type, enabled=False):
            ignored = torch.full_like(labels, -1) if ignored is None else ignored
            kept = kept_classes(logits, ignored)
            log_p = logits.float().masked_fill(~kept, float("-inf")).log_softmax(dim=1)
            at_label = -log_p.gather(1, labels[:, None])[:, 0]
            # minus infinity is replaced before the sum: 0 times it would be not-a-number
            spread = -log_p.masked_fill(~kept, 0.0).sum(dim=1) / kept.sum(dim=1)
            each = (1 - self.label_smoothing) * at_label + self.label_smoothing * spread
            return each if reduction == "none" else each.mean()
