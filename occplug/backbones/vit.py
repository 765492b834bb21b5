"""The ImageNet vision transformer for re-identification: overlapping patches and camera embedding as in TransReID.

Dosovitskiy et al., arXiv 2010.11929; He et al., "TransReID", arXiv 2102.04378. The modules and their names are timm's.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from occplug.backbones.official import OfficialTower, read_official
from occplug.backbones.position import patch_grid
from occplug.backbones.timm_transformer import PlainTransformer
from occplug.errors import CheckpointError, ConfigError, first_line
from occplug.registry import BACKBONES
from occplug.utils.files import user_path

__all__ = ["SIZES", "ViT", "check_architecture"]

_log = logging.getLogger(__name__)
# What timm calls the weights TransReID starts from: ImageNet-21k, then ImageNet-1k at 224 x 224
TIMM_NAME = "vit_base_patch16_224.orig_in21k_ft_in1k"
TIMM_FILE = "jx_vit_base_p16_224-80ecf9dd.pth"
SIZES: dict[str, dict[str, Any]] = {
    "vit_b16": {"name": "vit_b16", "image_size": 224, "patch_size": 16, "width": 768, "layers": 12, "heads": 12},
    "vit_s16": {"name": "vit_s16", "image_size": 224, "patch_size": 16, "width": 384, "layers": 12, "heads": 6},
    "vit_mini": {"name": "vit_mini", "image_size": (128, 64), "patch_size": 8, "width": 104, "layers": 4, "heads": 4},
}
EMBEDDED = Path(__file__).resolve().parents[1] / "assets" / "vit_mini.safetensors"


_HUB = "lakeAGI/PersonViT, folder {}.lup.256x128.wopt.csk.4-8.ar.375.n8"
FOUND_AT = {
    "vit_b16": f"; PersonViT's is on the Hugging Face hub, {_HUB.format('vitb')}: fetch it and put it there",
    "vit_s16": f"; PersonViT's is on the Hugging Face hub, {_HUB.format('vits')}, TransReID-SSL's on Google Drive, "
    "1ODxA7mJv17UfzwfXtY9dTWNsYghoNWGB: fetch it and put it there",
}


class ViT(PlainTransformer):
    """A vision transformer as ImageNet trained it; random weights until :func:`load_initial` fills them.

    Args:
        arch: image_size (pixels, of pre-training), patch_size, width, layers, heads.
        image_size: (height, width) of the images in pixels.
        stride: pixels from patch to patch; smaller than the patch makes patches overlap. None: the patch size.
        num_cameras, sie_coefficient: as :class:`TimmTransformer`'s.
        drop_path: rate of stochastic depth at the last block; it grows linearly from 0 at the first.

    Attributes:
        mean, std: pixel constants it was trained with.

    Raises:
        ConfigError: stride or image size that the patch size does not allow.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(
        self,
        arch: dict,
        image_size: tuple[int, int] = (256, 128),
        stride: int | None = None,
        num_cameras: int = 0,
        sie_coefficient: float = 3.0,
        drop_path: float = 0.0,
    ):
        patch, size = arch["patch_size"], arch["image_size"]
        visual = VisionTransformer(
            img_size=(image_size[0], image_size[1]),
            patch_size=patch,
            embed_dim=arch["width"],
            depth=arch["layers"],
            num_heads=arch["heads"],
            num_classes=0,
            drop_path_rate=drop_path,
        )
        stride = patch if stride is None else stride
        super().__init__(visual, image_size, patch, stride, num_cameras, sie_coefficient)
        self.arch, self.name = arch, arch.get("name", "")
        self.stored_grid = patch_grid((size, size) if isinstance(size, int) else size, patch, patch)

    def load(self, source) -> None:
        """Fill the tower from a file or state dict of timm's, PersonViT's or TransReID-SSL's; "timm" is a name for one.

        A position embedding of 129 rows is of 16 x 8 patches, as in every file of PersonViT and TransReID-SSL. What a
        fine-tuned file has beside the tower, and heads, are not read.

        Raises:
            CheckpointError: no file, damaged, another architecture, or tensors that do not fit; a file that does not
                fit changes nothing.
            ConfigError: a named source that has no weights for this tower.
        """
        if source == "openai" or (source == "embedded" and self.name != "vit_mini"):
            raise ConfigError(
                f"backbone.weights is {source!r}, which an ImageNet ViT does not have; use 'timm' or a file"
            )
        if source == "timm" and self.name in ("vit_s16", "vit_mini"):
            raise ConfigError(f"backbone.weights is 'timm', which {self.name} does not have; use a file, or timm:NAME")
        if isinstance(source, str) and source not in ("timm", "embedded") and not user_path(source).is_file():
            where = FOUND_AT.get(self.name, "")
            raise CheckpointError(f"backbone.weights is {source!r}: there is no such weight file{where}")
        named = {"timm": _timm_state, "embedded": lambda: EMBEDDED}.get(source) if isinstance(source, str) else None
        official = read_official(named() if named else source)
        check_architecture(official)
        official = official.with_positions(self.grid, [self.stored_grid])
        official.fill(self.visual, "the ImageNet ViT")
        _log.info("%s: %d tensors read", official.where, len(self.visual.state_dict()))

    def class_row(self, block: Block, x: Tensor) -> Tensor:
        """The block's output for the class token alone, [B, 1, C]."""
        attention: Any = block.attn
        y = block.norm1(x)
        query, key = self._queries_and_keys(attention, y[:, :1], y)
        value = F.linear(y, attention.qkv.weight.chunk(3)[2], attention.qkv.bias.chunk(3)[2])
        value = value.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(query, key, value)  # [B, heads, 1, C / heads]
        row = x[:, :1] + block.drop_path1(attention.proj(mixed.transpose(1, 2).flatten(2)))
        return row + block.drop_path2(block.mlp(block.norm2(row)))


# ---------------------------------------------------------------------- initial weights

_OTHERS = {
    r"patch_embed\.conv\..*": 'an ICS stem (TransReID-SSL\'s models with "+ICS"), which occplug does not have',
    r"(blocks\.\d+\.)?(gamma_[12]|ls[12]\.gamma)": "layer scale, so it is of another architecture",
    r"fc_norm\..*": "a norm of averaged patches, so it is of another architecture",
}


def check_architecture(official: OfficialTower) -> None:
    """Raise CheckpointError for a file with parts that a plain ViT does not have; names the first of each kind."""
    for pattern, what in _OTHERS.items():
        match = official.names(pattern)
        if match:
            raise CheckpointError(f"{official.where}: {match[0]} belongs to {what}")


def _timm_state():
    """A file or state dict of timm's weights: torch's cache first, then timm's own look-up and download."""
    local = Path(torch.hub.get_dir()) / "checkpoints" / TIMM_FILE
    if local.is_file():
        return local
    try:
        return timm.create_model(TIMM_NAME, pretrained=True, num_classes=0).state_dict()
    except (OSError, RuntimeError, ValueError) as error:
        reason = first_line(error)
        raise CheckpointError(
            f"timm's weights {TIMM_NAME} are not on this machine and cannot be downloaded ({reason}).\n"
            f"  Fetch {TIMM_FILE} (release v0.1-vitjx of pytorch-image-models) elsewhere and put it at {local}, or set "
            "backbone.weights to its path."
        ) from error


@BACKBONES.register_module("vit_b16")
def vit_b16(**options) -> ViT:
    """ImageNet's ViT-B/16: 12 blocks of width 768. `options` as :class:`ViT`'s."""
    return ViT(SIZES["vit_b16"], **options)


@BACKBONES.register_module("vit_s16")
def vit_s16(**options) -> ViT:
    """The ViT-S/16 of PersonViT and TransReID-SSL: 12 blocks of width 384, 6 heads. `options` as :class:`ViT`'s."""
    return ViT(SIZES["vit_s16"], **options)


@BACKBONES.register_module("vit_mini")
def vit_mini(**options) -> ViT:
    """A small ViT for 128x64 images, 4 blocks of width 104, whose weights know SynthOcc. `options` as ViT's."""
    return ViT(SIZES["vit_mini"], **{"image_size": (128, 64), **options})


for _build in (vit_b16, vit_s16, vit_mini):
    _build.options = {"drop_path": "drop_path"}
    _build.gives = frozenset({"patches", "levels", "tokens", "class scores", "cameras"})
