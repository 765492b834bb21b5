"""EVA-02's CLIP, ViT-B/16, as open_clip stores it: timm's Eva with a projection, beside CLIP's own text tower.

Sun et al., "EVA-CLIP: Improved Training Techniques for CLIP at Scale", arXiv 2303.15389.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from occplug.backbones.architectures import architecture
from occplug.backbones.features import VisionFeatures
from occplug.backbones.timm_towers import EvaTower
from occplug.backbones.tower import CLIPTower
from occplug.registry import BACKBONES

__all__ = ["EvaCLIP"]


class EvaCLIP(EvaTower, CLIPTower):
    """Image tower of EVA02-B-16; random weights until `load_clip` fills them.

    Args:
        arch: sizes as :func:`architecture` gives them; its `vision_cfg` names timm's model.
        options: as :class:`EvaTower`'s.
    """

    positions_name = "trunk.pos_embed"
    projection_names = (r"visual\.trunk\.head\..*",)

    def __init__(self, arch: dict, **options: Any):
        super().__init__(f"timm:{arch['vision_cfg']['timm']}", num_classes=arch["embed_dim"], **options)
        self.arch, self.name = arch, arch.get("name", "")
        self.widths = (*self.widths[:2], arch["embed_dim"])
        self.visual = _Trunk(self.visual)

    def finish(self, previous: Tensor, x: Tensor, tokens: bool = False) -> VisionFeatures:
        """Features from the streams after the last block but one (`previous`) and after the last block (`x`)."""
        trunk = self.visual.trunk
        features = super().finish(previous, x, tokens)
        features.projected = trunk.head(features.feature)
        if features.tokens is not None:
            features.projected_tokens = trunk.head(features.tokens)
        return features


class _Trunk(nn.Module):
    """Gives timm's model the name that open_clip's files have for it, `trunk`, and answers as it."""

    def __init__(self, trunk: Any):
        super().__init__()
        self.trunk = trunk

    def __getattr__(self, name: str) -> Any:
        trunk = self.__dict__.get("_modules", {}).get("trunk")
        if trunk is None:
            raise AttributeError(name)
        return trunk if name == "trunk" else getattr(trunk, name)


@BACKBONES.register_module("eva02_clip_b16")
def eva02_clip_b16(weights: str | None = None, **options: Any) -> EvaCLIP:
    """EVA02-B-16: 12 blocks of width 768, projected to 512. `options` as :class:`EvaTower`'s."""
    return EvaCLIP(architecture("eva02_clip_b16", weights), **options)


eva02_clip_b16.options = {"weights": "weights", "drop_path": "drop_path"}
eva02_clip_b16.gives = frozenset({"patches", "levels", "tokens", "cameras", "text"})
