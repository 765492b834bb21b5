"""What a backbone says about a batch of images."""

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["VisionFeatures"]


@dataclass
class VisionFeatures:
    """Three levels of features of B images, and what else was asked for. Nothing is normalised to unit length.

    Args:
        last: [B, C_last]. ViT: class token after the last but one block, raw residual stream. RN50: average of layer3.
        feature: [B, C]. ViT: class token after the last block and `ln_post`. RN50: average of layer4.
        projected: [B, E], in the space CLIP shares with text. ViT: `feature @ proj`. RN50: attention pool.
        grid: (h, w), rows and columns of the patches; h * w = N, row by row.
        tokens: [B, N, C] patches, the class token left out. ViT: after `ln_post`. RN50: the layer4 map.
        projected_tokens: [B, N, E] patches in the shared space.
        blocks: block number (from 1) -> output. ViT: [B, 1 + N, C], raw residual stream. RN50: [B, C, h, w] of a
            layer. Swin: [B, C, h, w] of a level, normalised.
        attention: block number -> [B, heads, 1 + N, 1 + N] attention weights (ViT only); rows sum to 1.
        class_scores: [B, heads, N] scores of the last block's class token for the patches, before the softmax (ViT
            only); float32.
    """

    last: Tensor
    feature: Tensor
    projected: Tensor
    grid: tuple[int, int]
    tokens: Tensor | None = None
    projected_tokens: Tensor | None = None
    blocks: dict[int, Tensor] = field(default_factory=dict)
    attention: dict[int, Tensor] = field(default_factory=dict)
    class_scores: Tensor | None = None
