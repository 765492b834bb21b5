"""CLIP's modified ResNet for re-identification: last stride 1, three feature levels.

Radford et al., arXiv 2103.00020, as CLIP-ReID (arXiv 2211.13977) uses it. The modules and their names are open_clip's.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from occplug.backbones.architectures import architecture
from occplug.backbones.features import VisionFeatures
from occplug.backbones.tower import CLIPTower, Edits
from occplug.errors import ConfigError
from occplug.registry import BACKBONES

__all__ = ["CLIPResNet"]


class CLIPResNet(CLIPTower):
    """Image tower of a CLIP with a ResNet; random weights until :func:`load_clip` fills them.

    Args:
        arch: sizes as :func:`architecture` gives them.
        image_size: (height, width) of the images in pixels.
        stride: pixels from cell to cell of the last map: 16 (layer4 does not reduce), or 32 (CLIP as published).
        num_cameras, sie_coefficient: there is no camera embedding for a ResNet; `num_cameras` must be 0.

    Attributes:
        widths: (C_last, C, E), widths of the feature levels.
        grid: (h, w), rows and columns of the last map.
        mean, std: pixel constants CLIP-ReID feeds it with (ImageNet's).

    Raises:
        ConfigError: another stride, a camera embedding, or an image smaller than one cell.
    """

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    positions_name = "attnpool.positional_embedding"  # within `visual`
    projection_names = (r"visual\.attnpool\..*",)

    def __init__(
        self,
        arch: dict,
        image_size: tuple[int, int] = (256, 128),
        stride: int = 16,
        num_cameras: int = 0,
        sie_coefficient: float = 1.0,
    ):
        super().__init__()
        vision, embed = arch["vision_cfg"], arch["embed_dim"]
        width = vision["width"]
        if stride not in (16, 32):
            raise ConfigError(f"backbone.stride is {stride}; a CLIP ResNet has 16 (as CLIP-ReID) or 32 (as published)")
        if num_cameras:
            raise ConfigError("backbone.sie_camera is True, but the camera embedding needs the class token of a ViT")
        self.arch = arch
        self.image_size = (image_size[0], image_size[1])
        self.stride = stride
        self.grid = _grid(self.image_size, stride)
        self.stored_grid = _grid((vision["image_size"],) * 2, 32)
        self.widths = (16 * width, 32 * width, embed)
        heads = 32 * width // vision["head_width"]
        self.visual = ModifiedResNet(vision["layers"], embed, heads, image_size=32, width=width)
        self._set_grid(32 * width)

    @property
    def point_widths(self) -> dict[int, int]:  # type: ignore[override]
        """Layer -> channels of its map."""
        return {layer: self.widths[1] >> (4 - layer) for layer in (1, 2, 3, 4)}

    def _set_grid(self, width: int) -> None:
        """Take the reduction out of layer4 and give the attention pool positions for our grid."""
        if self.stride == 16:
            first = self.visual.layer4[0]
            first.avgpool = nn.Identity()
            first.downsample[0] = nn.Identity()
        rows = 1 + self.grid[0] * self.grid[1]
        self.visual.attnpool.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(rows, width))

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
        """Features of `images` [B, 3, H, W] (normalised). `camids` is not used.

        Args:
            tokens: also return the cells of the last map; the attention pool then queries with all of them.
            blocks: numbers of the layers (1 to 4) whose map is wanted.
            attention: must be empty.
            edits: by number of a layer (1 to 4), applied to its map before anything reads it.

        Raises:
            ValueError: a layer outside 1 to 4, attention asked for, or images of another size.
        """
        edits = edits or {}
        if {*blocks, *edits} - {1, 2, 3, 4} or attention:
            asked = [*blocks, *edits, *attention]
            raise ValueError(f"a ResNet has layers 1 to 4 and no attention blocks, asked for {asked}")
        self.check_size(images)
        visual, maps = self.visual, {}
        x = visual.stem(images)  # [B, 64, H/4, W/4]
        for number, layer in enumerate((visual.layer1, visual.layer2, visual.layer3, visual.layer4), start=1):
            x = layer(x)
            x = maps[number] = edits[number](x) if number in edits else x
        cells = x.flatten(2).transpose(1, 2)  # [B, N, C]
        pooled = self._attention_pool(cells, whole=tokens)  # [B, 1 (+ N), E]
        return VisionFeatures(
            last=maps[3].mean(dim=(2, 3)),
            feature=x.mean(dim=(2, 3)),
            projected=pooled[:, 0],
            grid=self.grid,
            tokens=cells if tokens else None,
            projected_tokens=pooled[:, 1:] if tokens else None,
            blocks={number: maps[number] for number in blocks},
        )

    def _attention_pool(self, cells: Tensor, whole: bool) -> Tensor:
        """Attention pool over the mean and the cells [B, N, C], queried by the mean alone unless `whole`.

        Returns: [B, 1 + N, E] if `whole`, else [B, 1, E]. open_clip's own pool always queries with the whole and keeps
            row 0.
        """
        pool = self.visual.attnpool
        x = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)
        x = x + pool.positional_embedding.to(x.dtype)  # [B, 1 + N, C]
        query = pool.q_proj(x if whole else x[:, :1])
        query, key, value = (self._split_heads(t) for t in (query, pool.k_proj(x), pool.v_proj(x)))
        mixed = F.scaled_dot_product_attention(query, key, value)  # [B, heads, L, C / heads]
        return pool.c_proj(mixed.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        heads = self.visual.attnpool.num_heads
        return x.unflatten(2, (heads, -1)).transpose(1, 2)  # [B, heads, L, C / heads]


def _grid(image_size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Rows and columns of the last map: one strided 3x3 convolution, then average pools."""
    rows, columns = ((size + 1) // 2 // (stride // 2) for size in image_size)
    if min(rows, columns) < 1:
        height, width = image_size
        raise ConfigError(f"data.height x data.width is {height}x{width}, smaller than a cell of {stride} pixels")
    return rows, columns


@BACKBONES.register_module("clip_rn50")
def clip_rn50(**options) -> CLIPResNet:
    """OpenAI's RN50 with last stride 1, projected to 1024. `options` as :class:`CLIPResNet`'s."""
    return CLIPResNet(architecture("clip_rn50"), **options)
