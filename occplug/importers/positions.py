"""What the position embedding of an official ViT-B/16 file tells about its patches."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from occplug.backbones import architecture
from occplug.backbones.position import patch_grid
from occplug.importers.report import most_common

__all__ = ["patch_stride", "size_hints"]

_STRIDES = (16, 12, 15, 14, 13, *range(11, 0, -1))  # the two that authors publish first
_SIZES = ((256, 128), (384, 128), (224, 224), (256, 256), (384, 192))  # image sizes for the hint of an error


def patch_stride(state: Mapping[str, Tensor], name: str, image_size: tuple[int, int]) -> int | None:
    """The patch stride whose grid has as many patches as the position embedding `name`, None if none has."""
    patch = architecture("clip_vit_b16")["vision_cfg"]["patch_size"]
    patches = (most_common(state, [name]) or 0) - 1
    for stride in _STRIDES:
        height, width = patch_grid(image_size, patch, stride)
        if height * width == patches:
            return stride
    return None


def size_hints(state: Mapping[str, Tensor], name: str, image_size: tuple[int, int]) -> list[str]:
    """Which image size the file was trained at, if its position embedding `name` does not fit `image_size`."""
    if name not in state or patch_stride(state, name, image_size):
        return []
    rows = len(state[name])
    fits = [
        f"{h}x{w} (stride {stride})" for h, w in _SIZES if (stride := patch_stride(state, name, (h, w))) in (16, 12)
    ]
    size = f"{image_size[0]}x{image_size[1]}"
    return [f"{rows} position rows fit no stride at {size}; pass the image_size of training: {', '.join(fits) or '?'}"]
