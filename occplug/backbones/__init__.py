"""Backbones: image -> features and tokens; and the text towers that share their space."""

from occplug.backbones.architectures import architecture
from occplug.backbones.assembly import build_backbone
from occplug.backbones.clip_rn50 import CLIPResNet
from occplug.backbones.clip_vit import CLIPViT
from occplug.backbones.eva_clip import EvaCLIP
from occplug.backbones.features import VisionFeatures
from occplug.backbones.initial import load_initial
from occplug.backbones.lsnet import LSNet
from occplug.backbones.position import bound_grid
from occplug.backbones.swin import Swin
from occplug.backbones.text import TextTower, build_text_tower
from occplug.backbones.timm_towers import TimmViT
from occplug.backbones.vit import ViT
from occplug.backbones.wgff import WGFF

__all__ = [
    "WGFF",
    "CLIPResNet",
    "CLIPViT",
    "EvaCLIP",
    "LSNet",
    "TimmViT",
    "Swin",
    "TextTower",
    "ViT",
    "VisionFeatures",
    "architecture",
    "bound_grid",
    "build_backbone",
    "build_text_tower",
    "load_initial",
]
