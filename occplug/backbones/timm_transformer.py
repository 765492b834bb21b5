"""timm's vision transformers as towers: what a model's modules compute, wherever its sizes and weights come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention, Block
from torch import Tensor, nn

from occplug.backbones.features import VisionFeatures
from occplug.backbones.position import patch_grid
from occplug.backbones.tower import TransformerTower

__all__ = ["PlainTransformer", "TimmTransformer", "is_usual"]


def is_usual(blocks: Any) -> bool:
    """Whether all are timm's plain `Block` with plain attention: not parallel, differential or normed afterwards."""
    return all(type(block) is Block and type(block.attn) is Attention for block in blocks)


class TimmTransformer(TransformerTower):
    """What all of timm's transformers do alike.

    The feature is the class token after the final norm; of a model without one, the mean of the normalised patches.

    Args:
        visual: timm's model.
        image_size: (height, width) of the images in pixels.
        patch, stride: pixels of a patch, and from patch to patch; smaller than the patch makes patches overlap.
        num_cameras: rows of the camera embedding (SIE), which is added to *all* tokens; 0 for none.
        sie_coefficient: factor on the camera embedding.

    Attributes:
        widths: (C, C, C); there is no projection, so the projected feature is the feature itself.

    Raises:
        ConfigError: stride or image size that the patch size does not allow.
    """

    def __init__(
        self,
        visual: Any,
        image_size: tuple[int, int],
        patch: int,
        stride: int,
        num_cameras: int,
        sie_coefficient: float,
    ):
        super().__init__()
        self.image_size = (image_size[0], image_size[1])
        self.patch, self.stride = patch, stride
        self.grid = patch_grid(self.image_size, patch, stride)
        self.visual = visual
        self.num_prefix, self.has_class = visual.num_prefix_tokens, visual.cls_token is not None
        self.final_norm = "norm" if not isinstance(visual.norm, nn.Identity) else "fc_norm"
        width = visual.embed_dim
        self.widths = (width, width, width)
        self._set_grid()
        self.sie_coefficient, self.camera_embedding = sie_coefficient, None
        if num_cameras:
            self.camera_embedding = nn.Parameter(torch.empty(num_cameras, width))
            nn.init.trunc_normal_(self.camera_embedding, std=0.02)

    @abstractmethod
    def _set_grid(self) -> None:
        """Bring `visual` to the image's grid."""

    @property
    def position_prefix(self) -> int:
        """Rows of the position embedding before the patches'."""
        return 0 if self.visual.no_embed_class else self.num_prefix

    @property
    def layers(self) -> Sequence[Any]:
        """The blocks, in order."""
        return self.visual.blocks

    def untrained(self, levels: Collection[int] = ()) -> list[str]:
        """The norm that pools a head's feature, where the final norm is another."""
        return [r"visual\.fc_norm\..*"] if self.final_norm == "norm" else []

    def embed_patches(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> patches [B, N, C], row by row, without position."""
        embedding = self.visual.patch_embed
        return embedding.norm(embedding.proj(images).flatten(2).transpose(1, 2))

    def with_camera(self, x: Tensor, camids: Tensor | None) -> Tensor:
        """`x` [B, P + N, C] with the camera on every token."""
        if self.camera_embedding is None or camids is None:
            return x
        return x + self.sie_coefficient * self.cameras(camids)[:, None]

    def finish(self, previous: Tensor, x: Tensor, tokens: bool = False) -> VisionFeatures:
        """Features from the streams after the last block but one (`previous`) and after the last block (`x`)."""
        first = self.num_prefix
        y = getattr(self.visual, self.final_norm)(x[:, :1] if self.has_class and not tokens else x)
        feature = y[:, 0] if self.has_class else y[:, first:].mean(dim=1)
        last = previous[:, 0] if self.has_class else previous[:, first:].mean(dim=1)
        features = VisionFeatures(last=last, feature=feature, projected=feature, grid=self.grid)
        if tokens:
            features.tokens = features.projected_tokens = y[:, first:]
        return features

    def class_row(self, block: Any, x: Tensor) -> Tensor:
        """The whole stream after the block, since not every model here has its feature in one row of it."""
        return self.run_block(block, x)


class PlainTransformer(TimmTransformer):
    """timm's `VisionTransformer`; arguments and errors as :class:`TimmTransformer`'s."""

    @property
    def gives_attention(self) -> bool:  # type: ignore[override]
        """Whether the blocks are of the usual kind; parallel ones have no attention of their own."""
        return is_usual(self.layers)

    def _set_grid(self) -> None:
        visual = self.visual
        visual.patch_embed.proj.stride = (self.stride, self.stride)
        if visual.pos_embed is not None:
            rows = self.position_prefix + self.grid[0] * self.grid[1]
            visual.pos_embed = nn.Parameter(torch.empty(1, rows, self.widths[1]))
            nn.init.trunc_normal_(visual.pos_embed, std=0.02)

    def add_positions(self, patches: Tensor, camids: Tensor | None) -> Tensor:
        """Input of block 1, [B, P + N, C]: patches with prefix tokens and position, and the camera on every token."""
        visual = self.visual
        prefix = [token.expand(patches.shape[0], -1, -1) for token in (visual.cls_token, visual.reg_token)
                  if token is not None]  # fmt: skip
        if visual.pos_embed is not None and visual.no_embed_class:
            patches = patches + visual.pos_embed
        x = torch.cat([*prefix, patches.to(visual.pos_embed.dtype)], dim=1) if prefix else patches
        if visual.pos_embed is not None and not visual.no_embed_class:
            x = x + visual.pos_embed
        return visual.norm_pre(visual.patch_drop(visual.pos_drop(self.with_camera(x, camids))))

    def run_block(self, block: Any, x: Tensor) -> Tensor:
        """One block: [B, P + N, C] -> the same shape."""
        return block(x)

    def block_and_attention(self, block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output [B, P + N, C], and its attention [B, heads, P + N, P + N]."""
        attention, y = block.attn, block.norm1(x)
        query, key = self._queries_and_keys(attention, y, y)
        return block(x), (query @ key.transpose(2, 3) * attention.scale).softmax(dim=-1)

    def class_queries(self, block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """The class token's queries [B, heads, 1, d] and the patches' keys [B, heads, N, d]."""
        y = block.norm1(x)
        return self._queries_and_keys(block.attn, y[:, :1], y[:, self.num_prefix :])

    @staticmethod
    def _queries_and_keys(attention: Any, asking: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        weights = attention.qkv.weight.chunk(3)
        biases = (None, None) if attention.qkv.bias is None else attention.qkv.bias.chunk(3)
        query, key = (
            F.linear(rows, weight, bias).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
            for rows, weight, bias in zip((asking, asked), weights, biases)
        )
        return attention.q_norm(query), attention.k_norm(key)
