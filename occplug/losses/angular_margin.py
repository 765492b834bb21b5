"""Additive angular margin on cosines."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from occplug.losses.ignoring import IgnoringCrossEntropy
from occplug.registry import LOSSES

__all__ = ["AngularMargin"]


@LOSSES.register_module("angular_margin")
class AngularMargin(nn.Module):
    r"""ArcFace with its usual fallback: DPM++ (arXiv 2605.06637), eq. 15.

        phi = cos(theta + m)               if cos(theta) > cos(pi - m), i.e. if theta + m < pi
        phi = cos(theta) - m sin(pi - m)   otherwise, so that phi keeps falling
        loss = CE(s [phi at the true class, cos(theta) elsewhere], y)

    1 - cos^2 is kept above 1e-7 under the root, so gradients are finite at cos = 1 and -1.

    Args:
        scale: s.
        margin: m in radians.
    """

    def __init__(self, scale: float = 30.0, margin: float = 0.5):
        super().__init__()
        self.scale, self.margin = scale, margin
        self.cross_entropy = IgnoringCrossEntropy()

    def forward(self, cosine: Tensor, labels: Tensor, ignored: Tensor | None = None) -> Tensor:
        """`cosine` [B, C] in [-1, 1], `labels` [B], `ignored` [B] (a class to leave out, or -1) -> scalar float32."""
        with torch.autocast(cosine.device.type, enabled=False):
            cosine, margin = cosine.float(), self.margin
            true = cosine.gather(1, labels[:, None])  # [B, 1]
            sine = (1 - true.square()).clamp(min=1e-7).sqrt()
            turned = true * math.cos(margin) - sine * math.sin(margin)
            fallback = true - margin * math.sin(math.pi - margin)
            phi = torch.where(true > math.cos(math.pi - margin), turned, fallback)
            return self.cross_entropy(self.scale * cosine.scatter(1, labels[:, None], phi), labels, ignored)
