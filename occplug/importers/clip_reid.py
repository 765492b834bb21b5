"""Checkpoints of the official CLIP-ReID code (Syliz517/CLIP-ReID), baselines included, on ViT-B/16 and RN50."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from occplug.config import default_config
from occplug.importers.positions import patch_stride, size_hints
from occplug.importers.report import Composed, load_renamed, most_common
from occplug.method import Method, build_method
from occplug.utils.tensors import read_tensors

__all__ = ["load"]

# ours, official
TABLE = (
    ("backbone.visual.", "image_encoder."),
    ("backbone.camera_embedding", "cv_embed"),
    ("neck.norm.", "bottleneck."),
    ("neck.classifier.", "classifier."),
    ("neck_proj.norm.", "bottleneck_proj."),
    ("neck_proj.classifier.", "classifier_proj."),
    ("text.", "text_encoder."),
    ("prompts.context", "prompt_learner.cls_ctx"),
)
_PREFIX, _SUFFIX = "prompt_learner.token_prefix", "prompt_learner.token_suffix"
_POSITIONS = "image_encoder.positional_embedding"


def load(checkpoint, image_size: tuple[int, int], num_cameras: int | None, neck: str) -> Method:
    """The model of a `.pth` file or state dict as a CLIPReID in eval mode.

    `embed` gives the official test feature: last-level and projected feature side by side, before (`neck` "before",
    which the published figures use) or after the batch norms. Identities, cameras, stride and learnable tokens are
    read from the tensors. Not in a file, so assumed: camera coefficient 1.0 (the published SIE models) and the word
    "person" in the prompt (its embedding is in the file, its name is not).

    Args:
        image_size: (height, width) it was trained at; the position embedding must fit it.
        num_cameras: if given, the number of cameras a file with a camera embedding must have been trained with.

    Raises:
        CheckpointError: unreadable, or every official name that is wrongly shaped, missing or unknown.
        ConfigError: `neck` is neither "before" nor "after".
    """
    state, where = read_tensors(checkpoint)
    is_vit = not any(name.startswith(("image_encoder.layer", "image_encoder.attnpool")) for name in state)
    image_size = (image_size[0], image_size[1])
    method = _build(state, is_vit, image_size, num_cameras, neck)
    composed = {}
    if method.options.prompts:
        composed["prompts.template"] = _template(method)
    load_renamed(
        method,
        state,
        TABLE,
        where,
        f"CLIP-ReID{'' if composed else ' (baseline)'} on {'ViT-B/16' if is_vit else 'RN50'}",
        composed,
        unused=() if is_vit else ["cv_embed"],  # the official code makes one for RN50 and never reads it
        hints=size_hints(state, _POSITIONS, image_size) if is_vit else (),
    )
    return method.eval()


def _build(state: dict[str, Tensor], is_vit: bool, image_size: tuple[int, int], num_cameras: int | None, neck: str):
    """A CLIPReID with random weights and the sizes the tensors tell."""
    cameras = (num_cameras or most_common(state, ["cv_embed"])) if is_vit and "cv_embed" in state else 0
    with_prompts = any(name.startswith(("prompt_learner.", "text_encoder.")) for name in state)
    learnable = most_common(state, ["prompt_learner.cls_ctx"], axis=1) or 4
    options: dict[str, Any] = {
        "data.height": image_size[0],
        "data.width": image_size[1],
        "backbone.weights": "none",
        "backbone.stride": (patch_stride(state, _POSITIONS, image_size) or 16) if is_vit else 16,
        "backbone.sie_camera": bool(cameras),
        "method.prompts": with_prompts,
        "method.template": f"A photo of a {{{learnable}}} person.",
        "method.neck": neck,
    }
    pairs = [item for pair in options.items() for item in pair]
    cfg = default_config("clip_reid", "clip_vit_b16" if is_vit else "clip_rn50", pairs)
    classes = most_common(state, ["classifier.weight", "classifier_proj.weight", "prompt_learner.cls_ctx"])
    return build_method(cfg, classes or 1, cameras or 1, pretrained=False)


def _template(method: Any) -> Composed:
    """The prompt's fixed tokens: the official prefix, and of the padded suffix what comes up to end-of-text."""
    prompts, text = method.prompts, method.text
    start, stop, length = prompts.slots[0], prompts.slots[-1] + 1, len(prompts.ids)
    suffix = (1, text.context_length - stop, text.width)

    def make(state):
        between = torch.zeros(stop - start, text.width)
        return torch.cat([state[_PREFIX][0], between, state[_SUFFIX][0, : length - stop]])

    return Composed({_PREFIX: (1, start, text.width), _SUFFIX: suffix}, make)
