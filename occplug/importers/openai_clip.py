"""OpenAI's CLIP files, and any CLIP in their layout, as a model of image embeddings that needs no training."""

from __future__ import annotations

import os
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.backbones import CLIPResNet, CLIPViT, build_text_tower
from occplug.backbones.download import check_sum
from occplug.backbones.position import stored_grid
from occplug.backbones.tower import CLIPTower
from occplug.backbones.weights import SIZES, TEXT_SIDE, TOKEN_TABLE, fit_clip
from occplug.embedding import Embedding
from occplug.errors import ConfigError
from occplug.evaluation import squared_euclidean
from occplug.importers.report import most_common
from occplug.method import Method
from occplug.utils.files import user_path
from occplug.utils.tensors import read_tensors

__all__ = ["ImageTower", "load"]

_HEAD_WIDTH = 64  # of every CLIP OpenAI has published; not in the tensors
_RN_REDUCTION = 32  # image pixels to a cell of a published ResNet's last map


class ImageTower(Method):
    """A CLIP's image tower; embeds an image as its projected feature, which is not normalised."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def features(self, images: Tensor, camids: Tensor | None = None) -> Embedding:
        """The projected feature [B, E], not normalised."""
        return Embedding(self.backbone(images).projected.float())  # [B, E]

    def distance(self, query: Embedding, gallery: Embedding) -> Tensor:
        """Squared Euclidean distance of the L2-normalised vectors, [Q, G] in [0, 4]."""
        return squared_euclidean(F.normalize(query.vector), F.normalize(gallery.vector))


def load(checkpoint, image_size: tuple[int, int], num_cameras: int | None, neck: str) -> ImageTower:
    """The image tower of a TorchScript archive, a state dict or safetensors, in eval mode.

    `embed` gives what CLIP's `encode_image` returns: [B, E] float32, not normalised. Sizes are read from the tensors.
    At another image size than the file's, the position embedding is resized bilinearly and a ResNet's layer4 has
    stride 1: the tower CLIP-ReID builds from the same file. At the file's own size it is CLIP as published.

    Args:
        image_size: (height, width) of the images.
        num_cameras: not used; a CLIP knows no cameras.
        neck: must be "before"; a CLIP has no neck.

    Raises:
        CheckpointError: unreadable, or every name that is wrongly shaped, missing or
            unknown; the text side is checked too, unless all of it is absent.
        ConfigError: `neck` is not "before".
    """
    if neck != "before":
        raise ConfigError(f"neck is {neck!r}, but a CLIP has no neck; use 'before'")
    if isinstance(checkpoint, str | os.PathLike):
        check_sum(user_path(checkpoint), is_openais=False)
    state, where = read_tensors(checkpoint)
    state = {name: value for name, value in state.items() if name not in SIZES}
    arch = read_sizes(state)
    image_size = (image_size[0], image_size[1])
    backbone: CLIPTower
    if "patch_size" in arch["vision_cfg"]:
        backbone = CLIPViT(arch, image_size)
    else:
        native = image_size == (arch["vision_cfg"]["image_size"],) * 2
        backbone = CLIPResNet(arch, image_size, stride=_RN_REDUCTION if native else 16)
    with torch.device("meta"):
        text = build_text_tower(arch)
    needed = {name: value.shape for name, value in text.state_dict().items()}
    needed |= {TOKEN_TABLE: (arch["text_cfg"]["vocab_size"], text.width), "logit_scale": ()}
    has_text = any(TEXT_SIDE.fullmatch(name) for name in state)
    fit_clip(state, where, backbone, checked=needed if has_text else {})
    return ImageTower(backbone).eval()


def read_sizes(state: dict[str, Tensor]) -> dict:
    """Sizes of the CLIP with the tensors `state`, as :func:`occplug.backbones.architecture` gives them.

    Each size is what most of the tensors that have it say; where none has it, ViT-B/16's or RN50's.
    """
    is_vit = not any(name.startswith(("visual.layer", "visual.attnpool")) for name in state)
    vision = _vit_sizes(state) if is_vit else _resnet_sizes(state)
    projections = ["text_projection"] if "text_projection" in state else []
    norms = _matching(state, r"ln_final\.\w+|transformer\.resblocks\.\d+\.ln_\d\.\w+")
    width = most_common(state, norms) or 512
    embed = most_common(state, [*projections, "visual.proj"], axis=1) if is_vit else None
    embed = embed or most_common(state, ["visual.attnpool.c_proj.weight", "visual.attnpool.c_proj.bias"])
    text = {
        "context_length": most_common(state, ["positional_embedding"]) or 77,
        "vocab_size": most_common(state, [TOKEN_TABLE]) or 49408,
        "width": width,
        "heads": max(1, width // _HEAD_WIDTH),
        "layers": _count(state, r"transformer\.resblocks\.(\d+)\..*") or 12,
    }
    return {"embed_dim": embed or 512, "vision_cfg": vision, "text_cfg": text, "quick_gelu": True}


def _vit_sizes(state: dict[str, Tensor]) -> dict:
    norms = _matching(state, r"visual\.(class_embedding|ln_\w+\.\w+|transformer\.resblocks\.\d+\.ln_\d\.\w+)")
    width = most_common(state, norms) or 768
    patch = most_common(state, ["visual.conv1.weight"], axis=3) or 16
    return {
        "image_size": patch * _side(state, "visual.positional_embedding", 14),
        "patch_size": patch,
        "width": width,
        "head_width": min(width, _HEAD_WIDTH),
        "layers": _count(state, r"visual\.transformer\.resblocks\.(\d+)\..*") or 12,
    }


def _resnet_sizes(state: dict[str, Tensor]) -> dict:
    stem = _matching(state, r"visual\.(bn3\.\w+|layer1\.\d+\.bn[12]\.\w+)")
    return {
        "image_size": _RN_REDUCTION * _side(state, "visual.attnpool.positional_embedding", 7),
        "width": most_common(state, stem) or 64,
        "head_width": _HEAD_WIDTH,
        "layers": [_count(state, rf"visual\.layer{layer}\.(\d+)\..*") or 1 for layer in (1, 2, 3, 4)],
    }


def _matching(state: dict[str, Tensor], pattern: str) -> list[str]:
    return [name for name in state if re.fullmatch(pattern, name)]


def _count(state: dict[str, Tensor], pattern: str) -> int:
    """How many numbered parts there are: the highest number the pattern's group finds, plus 1."""
    numbers = [int(match.group(1)) for name in state if (match := re.fullmatch(pattern, name))]
    return max(numbers, default=-1) + 1


def _side(state: dict[str, Tensor], name: str, default: int) -> int:
    """Side of the square grid of the position embedding `name`; `default` if it is absent or not square."""
    grid = stored_grid(most_common(state, [name]) or 0, [])
    return grid[0] if grid else default
