"""What follows part features: visibility, and the norm after which they are tested."""

import torch
from torch import Tensor, nn

from occplug.registry import HEADS

__all__ = ["PartNorm", "PartVisibility"]


@HEADS.register_module("part_visibility")
class PartVisibility(nn.Module):
    """A linear map to one logit for each part: v_k = sigmoid(w_k . f_k + b_k) (ProFD, section 4.2.2).

    Args:
        parts: K.
        width: D of the part features.
    """

    def __init__(self, parts: int, width: int):
        super().__init__()
        bound = width**-0.5  # as torch's own linear layers
        self.weight = nn.Parameter(torch.empty(parts, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(parts).uniform_(-bound, bound))

    def forward(self, parts: Tensor) -> Tensor:
        """`parts` [B, K, D] -> logits [B, K]."""
        return (parts * self.weight).sum(dim=2) + self.bias


@HEADS.register_module("part_norm")
class PartNorm(nn.Module):
    """Batch norm of each part by itself, with a scale and shift that nothing trains.

    ProFD tests its parts after batch norms that no loss reaches: their scale stays 1 and their shift 0, but their
    running statistics must follow the training batches. Having no parameter, the module trains along with whatever
    holds it.

    Args:
        parts: K.
        width: D of the part features.
    """

    def __init__(self, parts: int, width: int):
        super().__init__()
        self.norm = nn.BatchNorm1d(parts * width, affine=False)
        self.register_buffer("scale", torch.ones(parts, width))
        self.register_buffer("shift", torch.zeros(parts, width))

    def forward(self, parts: Tensor) -> Tensor:
        """`parts` [B, K, D] -> the same shape."""
        return self.norm(parts.flatten(1)).view_as(parts) * self.scale + self.shift
