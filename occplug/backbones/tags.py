"""CLIP weights by the tags of open_clip, whose own table says which activation each was trained with.

The layouts are the same for all tags of an architecture, and the wrong activation raises no error: it moves features by
4e-2. So it comes from the table, from OpenAI's TorchScript form, or from `backbone.activation`, and is never assumed.
"""

from __future__ import annotations

import difflib

from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

from occplug.backbones.licences import OPEN_CLIP
from occplug.errors import ConfigError

__all__ = ["MODELS", "entry_of", "is_tagged", "quick_gelu"]

# backbone -> name of the architecture in open_clip
MODELS = {"clip_vit_b16": "ViT-B-16", "clip_vit_l14": "ViT-L-14", "eva02_clip_b16": "EVA02-B-16"}
QUICK, EXACT = "quick_gelu", "gelu"


def is_tagged(source) -> bool:
    """Whether `source` names weights by a tag."""
    return isinstance(source, str) and source.startswith(OPEN_CLIP)


def entry_of(backbone: str, source: str) -> dict:
    """What open_clip's table says of the tag `source` for `backbone`: `hf_hub`, `url`, `quick_gelu`, `mean`, `std`.

    Raises:
        ConfigError: open_clip has no such tag, or none at all for this backbone.
    """
    tag = source.removeprefix(OPEN_CLIP)
    if backbone not in MODELS:
        raise ConfigError(f"backbone.weights is {source!r}, but tags are for {', '.join(MODELS)}, not for {backbone}")
    known = list_pretrained_tags_by_model(MODELS[backbone])
    if tag not in known:
        near = difflib.get_close_matches(tag, known, n=1)
        hint = f" (did you mean {OPEN_CLIP}{near[0]}?)" if near else ""
        raise ConfigError(
            f"backbone.weights is {source!r}, a tag that open_clip does not have for {MODELS[backbone]}{hint}; it has: "
            f"{', '.join(known)}"
        )
    return get_pretrained_cfg(MODELS[backbone], tag)


def quick_gelu(backbone: str, source: str, activation: str, default: bool) -> bool:
    """Whether the CLIP `backbone` with the weights `source` has QuickGELU.

    Args:
        activation: `backbone.activation`, for files.
        default: of OpenAI's weights.

    Raises:
        ConfigError: a tag that does not exist.
    """
    if is_tagged(source):
        return bool(entry_of(backbone, source).get("quick_gelu"))
    return activation == QUICK if activation else default
