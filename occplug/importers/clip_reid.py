"""Checkpoints of the official CLIP-ReID code (Syliz517/CLIP-ReID): two-stage models and baselines, ViT-B/16 and RN50."""

from __future__ import annotations

import torch
from torch import Tensor

from occplug.backbones import architecture
from occplug.backbones.files import read_tensors
from occplug.backbones.keys import demand_fit
from occplug.backbones.position import patch_grid
from occplug.config import default_config
from occplug.errors import CheckpointError
from occplug.importers.report import load_renamed, rows_of
from occplug.method import Method, build_method

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
_CAMERAS = "cv_embed"
_CONTEXT = "prompt_learner.cls_ctx"
_PREFIX, _SUFFIX = "prompt_learner.token_prefix", "prompt_learner.token_suffix"
_PREFIX_LENGTH = 5  # start, A, photo, of, a
_STRIDES = (16, 12, *range(15, 12, -1), *range(11, 0, -1))  # the official two first
_SIZES = ((256, 128), (384, 128), (224, 224), (256, 256), (384, 192))  # for the hint of an error


def load(checkpoint, image_size: tuple[int, int], num_cameras: int | None, neck: str) -> Method:
    """The model of a `.pth` file or state dict as a CLIPReID in eval mode.

    `embed` gives the official test feature: last-level and projected feature side by side, before (`neck` "before",
    which the published figures use) or after the batch norms. Identities, cameras, stride and learnable tokens are
    read from the tensors. Not in a file, so assumed: camera coefficient 1.0 (the published SIE models) and the word
    "person" in the prompt (its embedding is in the file, its name is not).

    Args:
        image_size: (height, width) it was trained at; the position embedding must fit it.
        num_cameras: if given, the number of cameras the file must have been trained with.

    Raises:
        CheckpointError: unreadable, or every official name that is wrongly shaped, missing or unknown.
        ConfigError: `neck` is neither "before" nor "after".
    """
    state, where = read_tensors(checkpoint)
    is_vit = not any(name.startswith(("image_encoder.layer1.", "image_encoder.attnpool.")) for name in state)
    cameras = rows_of(state, [_CAMERAS]) if is_vit else None
    if num_cameras is not None and cameras is not None and cameras != num_cameras:
        raise CheckpointError(f"{where}: cv_embed is for {cameras} cameras, num_cameras says {num_cameras}")
    method = _build(state, is_vit, tuple(image_size), cameras or 0, neck)
    with_prompts = method.options.prompts
    if with_prompts:
        _check_fixed_tokens(state, method, where)
    load_renamed(
        method,
        state,
        TABLE,
        where,
        f"CLIP-ReID on {'ViT-B/16' if is_vit else 'RN50'}{'' if with_prompts else ' (baseline)'}",
        computed={"prompts.template": _template(state, method)} if with_prompts else None,
        unused=[*([_PREFIX, _SUFFIX] if with_prompts else []), *([] if is_vit else [_CAMERAS])],
        hints=_hints(state, is_vit),
    )
    return method.eval()
