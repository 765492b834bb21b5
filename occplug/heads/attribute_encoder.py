"""AG-ReID's attribute encoder: attribute tokens from one image feature."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.errors import ConfigError
from occplug.registry import HEADS

__all__ = ["AttributeEncoder"]


@HEADS.register_module("attribute_encoder")
class AttributeEncoder(nn.Module):
    r"""Predicts r word-embedding tokens from an image feature with self-attention among r slots.

    AG-ReID (arXiv 2508.04998), eq. 7. The paper gives "4 self-attention layers" and "approximately 2.76M" parameters at
    ViT-B/16; the form is ours and meets both:

        z_0 = W_in f + e_j,   z_l = z_{l-1} + MHSA_l(LN(z_{l-1})),   a = W_out LN(z_L),

    with learned slots e_j from N(0, 0.02) and LN without affine parameters. f enters as it is; the first LN takes care
    of its scale.

    Args:
        feature_width: E, width of the image feature.
        token_width: W, width of the predicted tokens.
        slots: r, tokens to predict.
        width, heads, layers: of the self-attention.

    Raises:
        ConfigError: `heads` does not divide `width`.
    """

    def __init__(self, feature_width: int, token_width: int, slots: int, width: int = 384, heads: int = 6, layers=4):
        super().__init__()
        if width % heads:
            raise ConfigError(f"the attribute encoder's width {width} is no multiple of its {heads} heads")
        self.enter = nn.Linear(feature_width, width)
        self.slots = nn.Parameter(torch.empty(slots, width))
        nn.init.normal_(self.slots, std=0.02)
        self.layers = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(layers))
        self.leave = nn.Linear(width, token_width)

    def forward(self, features: Tensor) -> Tensor:
        """`features` [B, E] -> tokens [B, r, W]."""
        z = self.enter(features)[:, None] + self.slots  # [B, r, width]
        for attention in self.layers:
            y = F.layer_norm(z, z.shape[-1:])
            z = z + attention(y, y, y, need_weights=False)[0]
        return self.leave(F.layer_norm(z, z.shape[-1:]))
