"""ProFD's decoders of parts, and its visibilities, by the names that a config gives them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from occplug.heads.hybrid_decoder import HybridDecoder
from occplug.heads.part_pooling import CosinePooling, MaskPooling

__all__ = ["build_decoder", "visibility_by"]


def visibility_by(name: str, logits: Tensor) -> Tensor:
    """[B, K] in [0, 1] as ProFD's `test_visibility` `name` says, from the heads' logits."""
    visible = logits.sigmoid()
    return {
        "softmax": lambda: (visible / 0.1).softmax(dim=1),
        "sigmoid": lambda: visible,
        "binary": lambda: (visible >= 0.5).float(),
        "none": lambda: torch.ones_like(visible),
        "even": lambda: torch.full_like(visible, 1 / visible.shape[1]),
    }[name]()


def build_decoder(options, width: int) -> nn.Module:
    """The decoder of ProFD's table 3 that `options.decoder` names."""
    if options.decoder == "wap":
        return CosinePooling()
    if options.decoder == "mask":
        return MaskPooling(options.align_gain)
    return HybridDecoder(
        width,
        options.decoder_layers,
        options.decoder_heads,
        options.dropout,
        semantic=options.decoder in ("hybrid", "sea"),
        spatial=options.decoder in ("hybrid", "spa"),
        dropped_maps=options.attn_loss_on == "dropped",
    )
