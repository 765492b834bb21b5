"""CLIP's MLP without the detours of its activation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["QuickGELUMLP", "use_quick_gelu"]


class QuickGELUMLP(nn.Module):
    """CLIP's MLP; its activation x * sigmoid(1.702 x) is written as silu(1.702 x) / 1.702, the factors in the weights.

    Values are equal up to rounding. torch has one kernel for SiLU and one for its gradient, where the product needs
    eight passes over the widest tensor of the block and keeps three copies of it instead of two.

    Args:
        mlp: open_clip's, whose layers `c_fc` and `c_proj` become this module's, under the same names.
    """

    def __init__(self, mlp: Any):
        super().__init__()
        self.c_fc: nn.Linear = mlp.c_fc
        self.c_proj: nn.Linear = mlp.c_proj

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, C] -> [B, L, C]."""
        hidden = F.silu(F.linear(x, 1.702 * self.c_fc.weight, 1.702 * self.c_fc.bias))  # [B, L, 4 C]
        return F.linear(hidden, self.c_proj.weight / 1.702, self.c_proj.bias)


def use_quick_gelu(blocks: Iterable[nn.Module]) -> None:
    """Give open_clip's residual blocks this activation."""
    for block in blocks:
        block.mlp = QuickGELUMLP(block.mlp)
