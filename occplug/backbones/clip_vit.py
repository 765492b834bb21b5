"""CLIP's vision transformer for re-identification: three feature levels, overlapping patches, camera embedding.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020, as CLIP-ReID
(arXiv 2211.13977) uses it; overlapping patches and camera embedding are TransReID's (arXiv 2102.04378) in CLIP-ReID's
form. The modules and their names are open_clip's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from occplug.backbones.architectures import architecture
from occplug.backbones.features import VisionFeatures
from occplug.backbones.position import bound_grid, patch_grid
from occplug.backbones.quick_gelu import use_quick_gelu
from occplug.backbones.tower import CLIPTower, TransformerTower
from occplug.errors import ConfigError
from occplug.registry import BACKBONES

__all__ = ["CLIPViT"]

SIE_SCOPES = ("cls", "all")


class CLIPViT(CLIPTower, TransformerTower):
    """Image tower of a CLIP with a vision transformer; random weights until :func:`load_clip` fills them.

    Args:
        arch: sizes as :func:`architecture` gives them.
        image_size: (height, width) of the images in pixels.
        stride: pixels from patch to patch; smaller than the patch makes patches overlap. None: the patch size.
        num_cameras: rows of the camera embedding (SIE); 0 for none.
        sie_coefficient: factor on the camera embedding.
        sie_scope: tokens it is added to: "cls" (CLIP-ReID) or "all" (TransReID).

    Attributes:
        widths: (C_last, C, E), widths of the feature levels.
        grid: (h, w), rows and columns of patches.
        mean, std: pixel constants CLIP-ReID feeds it with.

    Raises:
        ConfigError: stride or image size that the patch size does not allow, or another scope.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    positions_name = "positional_embedding"  # within `visual`
    projection_names = (r"visual\.proj",)

    def __init__(
        self,
        arch: dict,
        image_size: tuple[int, int] = (256, 128),
        stride: int | None = None,
        num_cameras: int = 0,
        sie_coefficient: float = 1.0,
        sie_scope: str = "cls",
    ):
        super().__init__()
        if sie_scope not in SIE_SCOPES:
            raise ConfigError(f"sie_scope is {sie_scope!r}; there are: {', '.join(SIE_SCOPES)}")
        vision, embed = arch["vision_cfg"], arch["embed_dim"]
        patch, width = vision["patch_size"], vision["width"]
        self.arch = arch
        self.image_size = (image_size[0], image_size[1])
        self.patch, self.stride = patch, patch if stride is None else stride
        self.grid = patch_grid(self.image_size, patch, self.stride)
        self.stored_grid = patch_grid(_pair(vision["image_size"]), patch, patch)
        self.widths = (width, width, embed)
        self.sie_coefficient, self.sie_scope = sie_coefficient, sie_scope
        self.visual = VisionTransformer(
            image_size=patch,
            patch_size=patch,
            width=width,
            layers=vision["layers"],
            heads=width // vision["head_width"],
            mlp_ratio=vision.get("mlp_ratio", 4.0),
            output_dim=embed,
        )
        if arch["quick_gelu"]:
            use_quick_gelu(self.visual.transformer.resblocks)
        self._set_grid(width)
        self.camera_embedding = None
        if num_cameras:
            self.camera_embedding = nn.Parameter(torch.empty(num_cameras, width))
            nn.init.trunc_normal_(self.camera_embedding, std=0.02)

    def _set_grid(self, width: int) -> None:
        """Give open_clip's tower our stride and grid; it knows only square steps of one patch itself."""
        self.visual.conv1.stride = (self.stride, self.stride)
        self.visual.grid_size, self.visual.image_size = self.grid, self.image_size
        rows = 1 + self.grid[0] * self.grid[1]
        self.visual.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(rows, width))

    def bound_to(self) -> dict[str, str]:
        """The grid, and the activation, which no tensor tells."""
        known = "activation" in self.arch  # a config names its weights
        told = {"backbone.activation": "quick_gelu" if self.arch["quick_gelu"] else "gelu"} if known else {}
        return bound_grid(self.grid) | told

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The blocks, in order."""
        return self.visual.transformer.resblocks

    def embed_patches(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> patches [B, N, C], row by row, without position."""
        return self.visual.conv1(images).flatten(2).transpose(1, 2)  # [B, N, C]

    def add_positions(self, patches: Tensor, camids: Tensor | None) -> Tensor:
        """Input of block 1, [B, 1 + N, C]: patches and class token with camera and position added, after `ln_pre`."""
        visual = self.visual
        first = visual.class_embedding.expand(patches.shape[0], 1, -1)  # [B, 1, C]; len() would fix B in an export
        if self.camera_embedding is not None and camids is not None:
            camera = self.sie_coefficient * self.cameras(camids)[:, None]
            # before the position embedding; on the class token alone is CLIP-ReID's form, on all tokens TransReID's
            first = first + camera
            if self.sie_scope == "all":
                patches = patches + camera.to(patches.dtype)
        x = torch.cat([first.to(patches.dtype), patches], dim=1)
        return visual.ln_pre(x + visual.positional_embedding.to(x.dtype))

    def finish(self, previous: Tensor, x: Tensor, tokens: bool = False) -> VisionFeatures:
        """Features from the streams after the last block but one (`previous`) and after the last block (`x`).

        Args:
            previous: [B, 1 + N, C]; only its class token is read.
            x: [B, 1 + N, C], or [B, 1, C] without `tokens`.
        """
        visual = self.visual
        y = visual.ln_post(x if tokens else x[:, :1])
        z = y @ visual.proj
        features = VisionFeatures(last=previous[:, 0], feature=y[:, 0], projected=z[:, 0], grid=self.grid)
        if tokens:
            features.tokens, features.projected_tokens = y[:, 1:], z[:, 1:]
        return features

    def run_block(self, block: ResidualAttentionBlock, x: Tensor) -> Tensor:
        """One block: [B, 1 + N, C] -> the same shape."""
        # torch's own attention module copies queries, keys and values into other layouts
        attn, y = block.attn, block.ln_1(x)
        qkv = F.linear(y, attn.in_proj_weight, attn.in_proj_bias).unflatten(2, (3, attn.num_heads, attn.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, L, C / heads]
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B, L, C]
        x = x + attn.out_proj(mixed)
        return x + block.mlp(block.ln_2(x))

    def class_row(self, block: ResidualAttentionBlock, x: Tensor) -> Tensor:
        """The block's output for the class token alone, [B, 1, C]."""
        y = block.ln_1(x)
        row = x[:, :1] + block.attn(y[:, :1], y, y, need_weights=False)[0]
        return row + block.mlp(block.ln_2(row))

    def block_and_attention(self, block: ResidualAttentionBlock, x: Tensor) -> tuple[Tensor, Tensor]:
        """The block's output [B, 1 + N, C], and its attention [B, heads, 1 + N, 1 + N]."""
        y = block.ln_1(x)
        update, weights = block.attn(y, y, y, need_weights=True, average_attn_weights=False)
        x = x + update
        return x + block.mlp(block.ln_2(x)), weights

    def class_queries(self, block: ResidualAttentionBlock, x: Tensor) -> tuple[Tensor, Tensor]:
        """The class token's queries [B, heads, 1, d] and the patches' keys [B, heads, N, d], d = C / heads."""
        y, attention = block.ln_1(x), block.attn
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        pairs = zip((y[:, :1], y[:, 1:]), weights[:2], biases[:2])
        query, key = (
            F.linear(rows, weight, bias).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
            for rows, weight, bias in pairs
        )
        return query, key


def _pair(size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


@BACKBONES.register_module("clip_vit_b16")
def clip_vit_b16(weights: str | None = None, activation: str = "", **options) -> CLIPViT:
    """CLIP's ViT-B/16: 12 blocks of width 768, projected to 512. `options` as :class:`CLIPViT`'s."""
    return CLIPViT(architecture("clip_vit_b16", weights, activation), **options)


@BACKBONES.register_module("clip_vit_l14")
def clip_vit_l14(weights: str | None = None, activation: str = "", **options) -> CLIPViT:
    """CLIP's ViT-L/14: 24 blocks of width 1024, projected to 768. `options` as :class:`CLIPViT`'s."""
    return CLIPViT(architecture("clip_vit_l14", weights, activation), **options)


for _build in (clip_vit_b16, clip_vit_l14):
    _build.options = {"weights": "weights", "activation": "activation"}


@BACKBONES.register_module("clip_vit_tiny")
def clip_vit_tiny(**options) -> CLIPViT:
    """The embedded tiny CLIP, 6 blocks of width 128, made for 128x64 images. `options` as :class:`CLIPViT`'s."""
    return CLIPViT(architecture("clip_vit_tiny"), **{"image_size": (128, 64), **options})
