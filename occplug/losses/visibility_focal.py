"""Focal loss of visibility."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.registry import LOSSES

__all__ = ["VisibilityFocal"]


@LOSSES.register_module("visibility_focal")
class VisibilityFocal(nn.Module):
    r"""Focal loss of visible against hidden, from logits.

    ProFD (arXiv 2409.20081), eq. 13, with v = sigmoid(logit):

        mean of  - alpha (1 - v)^gamma t log v - (1 - alpha) v^gamma (1 - t) log(1 - v).

    The official code takes the logarithms of the sigmoid and is infinite once it saturates; this stays finite.

    Args:
        alpha: weight of what is visible, 1 - alpha of what is not.
        gamma: how little a sure answer counts; 0 for plain cross entropy.
    """

    def __init__(self, alpha: float = 0.65, gamma: float = 2.0):
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """`logits` and `targets` (0 or 1) of one shape, e.g. [B, K] -> scalar float32."""
        with torch.autocast(logits.device.type, enabled=False):
            targets = targets.float()
            log_seen, log_hidden = F.logsigmoid(logits.float()), F.logsigmoid(-logits.float())
            visible = self.alpha * (self.gamma * log_hidden).exp() * targets * log_seen
            hidden = (1 - self.alpha) * (self.gamma * log_seen).exp() * (1 - targets) * log_hidden
            return -(visible + hidden).mean()
