"""The CLIP whose texts supervise a backbone that has none: where texts come from when the tower is a foreign one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from occplug.backbones.architectures import architecture
from occplug.backbones.initial import load_initial
from occplug.backbones.text import TextTower, build_text_tower
from occplug.backbones.tower import CLIPTower, Tower
from occplug.backbones.weights import Prompts, load_clip
from occplug.registry import BACKBONES, build, has_texts, tower_options

__all__ = ["PromptCLIP", "load_texts", "load_towers", "text_architecture", "text_tower_of"]


def text_architecture(cfg, backbone: Tower) -> dict:
    """Sizes of the CLIP whose texts go with `backbone`: its own, or the one that `cfg.prompts` names."""
    if has_texts(cfg.backbone.name):
        with_texts: Any = backbone  # all that have texts have `arch`
        return with_texts.arch
    return architecture(cfg.prompts.clip, cfg.prompts.weights, cfg.prompts.activation)


def text_tower_of(cfg, backbone: Tower) -> TextTower:
    """The text tower that goes with `backbone`, with random weights."""
    return build_text_tower(text_architecture(cfg, backbone))


class PromptCLIP(nn.Module):
    """Image side of the CLIP that `cfg.prompts` names, for the stage that learns its texts; frozen.

    Images come in the backbone's pixel constants and are brought to the CLIP's.

    Args:
        cfg: resolved config; reads `prompts`, `data.height`, `data.width`, `data.norm_mean`, `data.norm_std`.
    """

    splits = "images"  # a row of the features depends on its own image alone (occplug.distributed)
    scale: Tensor
    shift: Tensor

    def __init__(self, cfg):
        super().__init__()
        o = cfg.prompts
        told = {"weights": o.weights, "activation": o.activation}
        options = {key: told[key] for key in tower_options(o.clip)}
        size = (cfg.data.height, cfg.data.width)
        self.tower: CLIPTower = build(BACKBONES, o.clip, image_size=size, **options)
        mean, std, own_mean, own_std = (
            torch.tensor(list(values))[:, None, None]
            for values in (cfg.data.norm_mean, cfg.data.norm_std, self.tower.mean, self.tower.std)
        )
        self.register_buffer("scale", std / own_std, persistent=False)
        self.register_buffer("shift", (mean - own_mean) / own_std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Projected features [B, E] of images [B, 3, H, W]."""
        return self.tower(self.scale * images + self.shift).projected


def load_towers(
    cfg, backbone: Tower, text: TextTower | None, prompts: Iterable[Prompts] = (), prompt_clip: PromptCLIP | None = None
) -> None:
    """Fill `backbone` with the weights `cfg.backbone` names, and `text` and `prompts` with those of its texts.

    Args:
        text: text tower, or None where nothing asks for texts.
        prompts: as :func:`load_clip`.
        prompt_clip: of a backbone without texts, the image side beside it, where there is one.

    Raises as :func:`load_initial`.
    """
    if has_texts(cfg.backbone.name):
        with_texts: Any = backbone
        load_clip(cfg.backbone.weights, with_texts, text, prompts)
        return
    load_initial(cfg.backbone.weights, backbone)
    if text is not None:
        load_texts(cfg, text, prompts, prompt_clip)


def load_texts(
    cfg, text: TextTower | None, prompts: Iterable[Prompts] = (), prompt_clip: PromptCLIP | None = None
) -> None:
    """Fill the texts of a foreign backbone, and the image side beside them, with the weights `cfg.prompts` names.

    Raises as :func:`load_clip`.
    """
    tower = (prompt_clip or PromptCLIP(cfg)).tower
    load_clip(cfg.prompts.weights, tower, text, prompts)
