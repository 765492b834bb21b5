"""Attention heads of the class token that look at different places."""

import torch
from torch import Tensor, nn

from occplug.registry import LOSSES

__all__ = ["HeadDiversity"]


@LOSSES.register_module("head_diversity")
class HeadDiversity(nn.Module):
    r"""The head enrich module (HEM): DPM++ (arXiv 2605.06637), eq. 18-19, in the form of DPM's official code.

        a_h = scores of the class token for the patches in head h, *before* the softmax
        r_h = a_h / sqrt(|a_h|^2 + 1e-6)
        loss = 1 / K^2 sum_b || R_b R_b^T - I ||_F^2,    K heads

    Summed over the batch and divided by K^2 alone: its published weight of 0.1 counts on that.
    """

    def forward(self, head_logits: Tensor) -> Tensor:
        """`head_logits` [B, K, N] -> scalar float32."""
        with torch.autocast(head_logits.device.type, enabled=False):
            scores = head_logits.float()
            rows = scores / (scores.square().sum(dim=2, keepdim=True) + 1e-6).sqrt()
            heads = rows.shape[1]
            gap = rows @ rows.transpose(1, 2) - torch.eye(heads, device=rows.device)  # [B, K, K]
            return gap.square().sum() / heads**2
