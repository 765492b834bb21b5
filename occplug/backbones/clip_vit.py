"""CLIP's vision transformer for re-identification: three feature levels, overlapping patches, camera embedding.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020, as CLIP-ReID
(arXiv 2211.13977) uses it; overlapping patches and camera embedding are TransReID's (arXiv 2102.04378) in CLIP-ReID's
form. The modules and their names are open_clip's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from occplug.backbones.architectures import architecture
from occplug.backbones.features import VisionFeatures
from occplug.backbones.position import patch_grid
from occplug.backbones.tower import CLIPTower, Edits, map_to_tokens, tokens_to_map
from occplug.errors import DataError
from occplug.registry import BACKBONES

__all__ = ["CLIPViT"]


class CLIPViT(CLIPTower):
    """Image tower of a CLIP with a vision transformer; random weights until :func:`load_clip` fills them.

    Args:
        arch: sizes as :func:`architecture` gives them.
        image_size: (height, width) of the images in pixels.
        stride: pixels from patch to patch; smaller than the patch makes patches overlap. None: the patch size.
        num_cameras: rows of the camera embedding (SIE); 0 for none.
        sie_coefficient: factor on the camera embedding.

    Attributes:
        widths: (C_last, C, E), widths of the feature levels.
        grid: (h, w), rows and columns of patches.
        mean, std: pixel constants CLIP-ReID feeds it with.

    Raises:
        ConfigError: stride or image size that the patch size does not allow.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    positions_name = "positional_embedding"  # within `visual`

    def __init__(
        self,
        arch: dict,
        image_size: tuple[int, int] = (256, 128),
        stride: int | None = None,
        num_cameras: int = 0,
        sie_coefficient: float = 1.0,
    ):
        super().__init__()
        vision, embed = arch["vision_cfg"], arch["embed_dim"]
        patch, width = vision["patch_size"], vision["width"]
        self.arch = arch
        self.image_size = tuple(image_size)
        self.stride = patch if stride is None else stride
        self.grid = patch_grid(self.image_size, patch, self.stride)
        self.stored_grid = patch_grid(_pair(vision["image_size"]), patch, patch)
        self.widths = (width, width, embed)
        self.sie_coefficient = sie_coefficient
        self.visual = VisionTransformer(
            image_size=patch,
            patch_size=patch,
            width=width,
            layers=vision["layers"],
            heads=width // vision["head_width"],
            mlp_ratio=vision.get("mlp_ratio", 4.0),
            output_dim=embed,
            act_layer=QuickGELU if arch["quick_gelu"] else nn.GELU,
        )
        self._set_grid(width)
        self.camera_embedding = nn.Parameter(torch.empty(num_cameras, width)) if num_cameras else None
        if num_cameras:
            nn.init.trunc_normal_(self.camera_embedding, std=0.02)

    def _set_grid(self, width: int) -> None:
        """Give open_clip's tower our stride and grid; it knows only square steps of one patch itself."""
        self.visual.conv1.stride = (self.stride, self.stride)
        self.visual.grid_size, self.visual.image_size = self.grid, self.image_size
        rows = 1 + self.grid[0] * self.grid[1]
        self.visual.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(rows, width))

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.visual.transformer.resblocks)

    @property
    def point_widths(self) -> dict[int, int]:
        """Blocks (0: their input) whose patches a later block hands to the class token -> width."""
        return dict.fromkeys(range(self.depth), self.widths[1])

    def forward(
        self,
        images: Tensor,
        camids: Tensor | None = None,
        *,
        tokens: bool = False,
        blocks: Collection[int] = (),
        attention: Collection[int] = (),
        edits: Edits | None = None,
    ) -> VisionFeatures:
        """Features of `images` [B, 3, H, W] (normalised) from cameras `camids` [B] (0-based, None: no camera added).

        If neither patch tokens nor the last block are asked for, the last block computes the class token alone: no
        other token of that block reaches the features, so values and gradients are the same.

        Args:
            tokens: also return the patches of the last level.
            blocks: numbers (from 1) of the blocks whose output is wanted.
            attention: numbers of the blocks whose attention weights are wanted.
            edits: by the numbers of `point_widths`, applied to the patches of that stream; the class token is left
                alone.

        Raises:
            ValueError: a block number outside 1 to `depth`, an edit without effect, or images of another size than the
                tower was built for.
            DataError: a camera the embedding has no row for.
        """
        wanted = {*blocks, *attention}
        if wanted - set(range(1, self.depth + 1)):
            raise ValueError(f"blocks are numbered 1 to {self.depth}, asked for {sorted(wanted)}")
        edits = edits or {}
        if not edits.keys() <= self.point_widths.keys():
            raise ValueError(f"edits are at blocks 0 to {self.depth - 1}, asked for {sorted(edits)}")
        class_row_only = not tokens and self.depth not in wanted
        streams, maps = {}, {}
        x = previous = self._edited(self.embed_tokens(images, camids), edits.get(0))  # [B, 1 + N, C]
        for number, block in enumerate(self.visual.transformer.resblocks, start=1):
            previous = x
            if number in attention:
                x, maps[number] = _block_and_attention(block, x)
            elif number == self.depth and class_row_only:
                x = _class_row(block, x)  # [B, 1, C]
            else:
                x = _block(block, x)
            x = self._edited(x, edits.get(number))
            if number in blocks:
                streams[number] = x
        seen = self.finish(previous, x, tokens=tokens)
        seen.blocks, seen.attention = streams, maps
        return seen

    def _edited(self, x: Tensor, edit: Callable[[Tensor], Tensor] | None) -> Tensor:
        if edit is None:
            return x
        patches = map_to_tokens(edit(tokens_to_map(x[:, 1:], self.grid)))
        return torch.cat([x[:, :1], patches], dim=1)

    def embed_tokens(self, images: Tensor, camids: Tensor | None = None) -> Tensor:
        """Input of block 1, [B, 1 + N, C]: patches and class token with camera and position added, after `ln_pre`."""
        if tuple(images.shape[1:]) != (3, *self.image_size):
            raise ValueError(f"images are [B, 3, {self.image_size[0]}, {self.image_size[1]}], got {list(images.shape)}")
        visual = self.visual
        patches = visual.conv1(images).flatten(2).transpose(1, 2)  # [B, N, C]
        first = visual.class_embedding.expand(len(images), 1, -1)  # [B, 1, C]
        if self.camera_embedding is not None and camids is not None:
            # before the position embedding, and on the class token alone: CLIP-ReID's form, not TransReID's
            first = first + self.sie_coefficient * self._cameras(camids)[:, None]
        x = torch.cat([first.to(patches.dtype), patches], dim=1)
        return visual.ln_pre(x + visual.positional_embedding.to(x.dtype))

    def _cameras(self, camids: Tensor) -> Tensor:
        known = len(self.camera_embedding)
        unseen = camids[(camids < 0) | (camids >= known)]
        if len(unseen):
            raise DataError(
                f"camera {int(unseen[0])} (counted from 0) is none of the {known} cameras the camera embedding was "
                "trained on; test on the cameras of training, or train with backbone.sie_camera False"
            )
        return self.camera_embedding[camids]  # [B, C]

    def run_blocks(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The stream after block `stop` from the stream `x` after block `start` (0: from :meth:`embed_tokens`)."""
        for block in self.visual.transformer.resblocks[start:stop]:
            x = _block(block, x)
        return x

    def finish(self, previous: Tensor, x: Tensor, tokens: bool = False) -> VisionFeatures:
        """Features from the streams after the last block but one (`previous`) and after the last block (`x`).

        Args:
            previous: [B, 1 + N, C]; only its class token is read.
            x: [B, 1 + N, C], or [B, 1, C] without `tokens`.
        """
        visual = self.visual
        y = visual.ln_post(x if tokens else x[:, :1])
        z = y @ visual.proj
        seen = VisionFeatures(last=previous[:, 0], feature=y[:, 0], projected=z[:, 0], grid=self.grid)
        if tokens:
            seen.tokens, seen.projected_tokens = y[:, 1:], z[:, 1:]
        return seen


def _pair(size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _block(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """`block(x)` [B, L, C]; torch's own attention module copies queries, keys and values into other layouts."""
    attn, y = block.attn, block.ln_1(x)
    qkv = F.linear(y, attn.in_proj_weight, attn.in_proj_bias).unflatten(2, (3, attn.num_heads, attn.head_dim))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [B, heads, L, C / heads]
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B, L, C]
    x = x + attn.out_proj(mixed)
    return x + block.mlp(block.ln_2(x))


def _class_row(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """Row 0 of `block(x)`, [B, 1, C]: all tokens are keys and values, but only the class token queries."""
    y = block.ln_1(x)
    row = x[:, :1] + block.attn(y[:, :1], y, y, need_weights=False)[0]
    return row + block.mlp(block.ln_2(row))


def _block_and_attention(block: ResidualAttentionBlock, x: Tensor) -> tuple[Tensor, Tensor]:
    """`block(x)` [B, L, C] and its attention weights [B, heads, L, L]."""
    y = block.ln_1(x)
    update, weights = block.attn(y, y, y, need_weights=True, average_attn_weights=False)
    x = x + update
    return x + block.mlp(block.ln_2(x)), weights


@BACKBONES.register_module("clip_vit_b16")
def clip_vit_b16(**options) -> CLIPViT:
    """OpenAI's ViT-B/16: 12 blocks of width 768, projected to 512. `options` as :class:`CLIPViT`'s."""
    return CLIPViT(architecture("clip_vit_b16"), **options)


@BACKBONES.register_module("clip_vit_tiny")
def clip_vit_tiny(**options) -> CLIPViT:
    """The embedded tiny CLIP, 6 blocks of width 128, made for 128x64 images. `options` as :class:`CLIPViT`'s."""
    return CLIPViT(architecture("clip_vit_tiny"), **{"image_size": (128, 64), **options})
