"""Backbones: image -> features and tokens; and the text towers that share their space."""

from occplug.backbones.architectures import architecture
from occplug.backbones.clip_rn50 import CLIPResNet
from occplug.backbones.clip_vit import CLIPViT
from occplug.backbones.features import VisionFeatures
from occplug.backbones.text import TextTower, build_text_tower
from occplug.backbones.vit import ViT, load_initial

__all__ = [
    "CLIPResNet",
    "CLIPViT",
    "TextTower",
    "ViT",
    "VisionFeatures",
    "architecture",
    "build_text_tower",
    "load_initial",
]
