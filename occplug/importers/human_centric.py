"""Checkpoints of PersonViT, TransReID-SSL and SOLIDER, pre-trained or fine-tuned, as plain models of image features."""

from __future__ import annotations

from typing import Any

from occplug.backbones.official import POSITIONS, OfficialTower, read_official
from occplug.backbones.position import patch_grid
from occplug.backbones.swin import SIZES as SWIN_SIZES
from occplug.backbones.swin import position_index
from occplug.backbones.vit import SIZES as VIT_SIZES
from occplug.backbones.vit import check_architecture
from occplug.config import default_config
from occplug.errors import ConfigError
from occplug.importers.report import load_renamed, most_common
from occplug.method import Method, build_method

__all__ = ["load_personvit", "load_solider"]

_STRIDES = (16, 12, 11, 15, 14, 13, *range(10, 0, -1))
_NECK = (("metric.neck.norm.", "bottleneck."), ("metric.neck.classifier.", "classifier."))


def load_personvit(checkpoint, image_size: tuple[int, int], num_cameras: int | None, neck: str) -> Method:
    """The ViT-B/16 or ViT-S/16 of a PersonViT or TransReID-SSL file, as a plain baseline in eval mode.

    `embed` gives the class token after the final norm [B, 768 or 384], float32, not normalised; with `neck` "after"
    that after the batch norm. The position embedding is fitted to `image_size`.

    Args:
        checkpoint: path or dict: a fine-tuned model (`base.*`, `bottleneck.*`, `classifier.weight`), a pre-training
            checkpoint (`teacher`), or the bare teacher (`backbone.*`, or timm's names without a prefix).
        image_size: (height, width) of the images.
        num_cameras: not used; these models have no camera embedding.

    Raises:
        CheckpointError: unreadable, another architecture, or every official name that is wrongly shaped, missing or
            unknown.
        ConfigError: `neck` is "after", and a pre-trained file has none.
    """
    official = read_official(checkpoint)
    check_architecture(official)
    norms = official.names(r"blocks\.\d+\.norm[12]\.(weight|bias)|norm\.(weight|bias)")
    width = most_common(official.state, norms) or VIT_SIZES["vit_b16"]["width"]
    name = "vit_s16" if width == VIT_SIZES["vit_s16"]["width"] else "vit_b16"
    stride = _stride(official, image_size, VIT_SIZES[name]["patch_size"])
    method = _baseline(official, name, image_size, neck, {"backbone.stride": stride})
    backbone: Any = method.backbone
    _load(method, official.with_positions(backbone.grid, []), "PersonViT or TransReID-SSL")
    return method


def load_solider(checkpoint, image_size: tuple[int, int], num_cameras: int | None, neck: str) -> Method:
    """The Swin-T, -S or -B of a SOLIDER file, as a plain baseline in eval mode.

    `embed` gives the mean over the last normalised map [B, 768 or 1024], float32, not normalised; with `neck` "after"
    that after the batch norm. The semantic weight is 0.2, that of the published ReID results.

    Args, Raises: as :func:`load_personvit`'s.
    """
    official = read_official(checkpoint)
    official.check_index(position_index())
    norms = official.names(r"patch_embed\.norm\.(weight|bias)|stages\.0\.blocks\.\d+\.norm[12]\.(weight|bias)")
    width = most_common(official.state, norms) or SWIN_SIZES["solider_swin_t"]["width"]
    names = official.names(r"stages\.2\.blocks\.\d+\..*")
    depth = len({name.removeprefix(official.prefix).split(".")[3] for name in names})
    name = "solider_swin_b" if width >= SWIN_SIZES["solider_swin_b"]["width"] else "solider_swin_t"
    if name == "solider_swin_t" and depth > SWIN_SIZES[name]["depths"][2]:
        name = "solider_swin_s"
    method = _baseline(official, name, image_size, neck, {"backbone.semantic_weight": 0.2})
    _load(method, official, f"SOLIDER's {name.removeprefix('solider_')}")
    return method


def _stride(official: OfficialTower, image_size: tuple[int, int], patch: int) -> int:
    """The patch stride whose grid has as many patches as the file, 16 where none has: then positions are fitted."""
    patches = (most_common(official.state, [f"{official.prefix}{POSITIONS}"], axis=1) or 0) - 1
    for stride in _STRIDES if official.is_finetuned else ():
        height, width = patch_grid(image_size, patch, stride)
        if height * width == patches:
            return stride
    return patch


def _baseline(official: OfficialTower, backbone: str, image_size, neck: str, options: dict[str, Any]) -> Method:
    """DPM without masks and head diversity, which is the plain model: tower, batch norm, classifier."""
    if neck != "before" and not official.is_finetuned:
        raise ConfigError(
            f"neck is {neck!r}, but {official.where} is a pre-trained file without a batch norm neck; use 'before'"
        )
    options |= {
        "data.height": image_size[0],
        "data.width": image_size[1],
        "backbone.weights": "none",
        "method.mask": "none",
        "method.hem": False,
        "method.neck": neck,
    }
    cfg = default_config("dpm", backbone, [item for pair in options.items() for item in pair])
    classes = most_common(official.state, ["classifier.weight"]) or 1
    return build_method(cfg, classes, 1, pretrained=False)


def _load(method: Any, official: OfficialTower, what: str) -> None:
    state, where, unused = official.state, official.where, official.unused
    if official.is_finetuned:
        load_renamed(method, state, (("backbone.visual.", official.prefix), *_NECK), where, what, unused=unused)
    else:
        load_renamed(method.backbone.visual, state, (("", official.prefix),), where, what, unused=unused)
    method.eval()
