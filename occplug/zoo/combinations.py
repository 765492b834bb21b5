"""Which method runs on which backbone: tried config by config, for the table of docs/backbones.md."""

from __future__ import annotations

from occplug.config import default_config
from occplug.errors import ConfigError

__all__ = ["BACKBONES_SHOWN", "ROWS", "combinations", "refusal"]

# heading -> a backbone of the kind
BACKBONES_SHOWN = {
    "CLIP ViT": "clip_vit_b16",
    "CLIP RN50": "clip_rn50",
    "WGFF": "wgff",
    "EVA-02 CLIP": "eva02_clip_b16",
    "ViT (ImageNet, PersonViT, TransReID-SSL)": "vit_b16",
    "SOLIDER Swin": "solider_swin_t",
    "timm ViT": "timm:vit_small_patch16_224.dino",
    "timm Eva (DINOv3)": "timm:vit_small_patch16_dinov3.lvd1689m",
    "other timm": "timm:convnext_atto.d2_in1k",
}
_PROFD: dict[str, object] = {"method.train.text_encoder_lr_mult": 0.0}
_NO_HEM: dict[str, object] = {"method.hem": False}
# what is asked for -> method and keys
ROWS: dict[str, tuple[str, dict[str, object]]] = {
    "baseline (cross entropy, triplet)": ("clip_reid", {"method.prompts": False}),
    "CLIP-ReID's texts": ("clip_reid", {}),
    "the same, learnt along (`prompts.source: joint`)": ("clip_reid", {"prompts.source": "joint"}),
    "DPL-ReID's texts": ("dpl_reid", {}),
    "AG-ReID": ("ag_reid", {}),
    "ProFD's parts": ("profd", _PROFD),
    "DPM's masks": ("dpm", _NO_HEM),
    "DPM with head diversity (`method.hem`)": ("dpm", {}),
    "DPM++'s masks and texts": ("dpmpp", _NO_HEM | {"method.spt": False}),
    "DPM++ in full": ("dpmpp", {}),
    "patch transfer (`method.spt`)": ("clip_reid", {"method.spt": True}),
    "camera embedding (`backbone.sie_camera`)": ("clip_reid", {"backbone.sie_camera": True}),
}


def refusal(method: str, backbone: str, options: dict[str, object]) -> str:
    """Why `method` with the keys `options` does not run on `backbone`; empty where it does."""
    size = {"backbone.stride": 16, "data.height": 256, "data.width": 128} if backbone.startswith("timm:") else {}
    try:
        default_config(method, backbone, [word for pair in (size | options).items() for word in pair])
    except ConfigError as error:
        return str(error)
    return ""


def combinations() -> str:
    """The table, in markdown."""
    lines = [f"| | {' | '.join(BACKBONES_SHOWN)} |", f"|---|{'---|' * len(BACKBONES_SHOWN)}"]
    for label, (method, options) in ROWS.items():
        cells = ["-" if refusal(method, name, options) else "yes" for name in BACKBONES_SHOWN.values()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)
