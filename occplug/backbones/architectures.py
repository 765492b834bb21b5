"""Sizes of the CLIP models occplug knows, in open_clip's form of a model config."""

import copy
import difflib

from occplug.backbones.tags import quick_gelu
from occplug.backbones.tiny import ARCHITECTURE as TINY
from occplug.errors import ConfigError

__all__ = ["ARCHITECTURES", "architecture"]

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}

# image_size is the size of pre-training: it gives the grid of the stored position embedding
ARCHITECTURES = {
    "clip_vit_b16": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "head_width": 64, "patch_size": 16},
        "text_cfg": _TEXT,
        "quick_gelu": True,  # OpenAI's weights; those of other tags may have exact GELU, which is 4e-2 off
    },
    "clip_vit_l14": {
        "embed_dim": 768,
        "vision_cfg": {"image_size": 224, "layers": 24, "width": 1024, "head_width": 64, "patch_size": 14},
        "text_cfg": {**_TEXT, "width": 768, "heads": 12},
        "quick_gelu": True,
    },
    "eva02_clip_b16": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "timm": "eva02_base_patch16_clip_224", "patch_size": 16},
        "text_cfg": _TEXT,
        "quick_gelu": False,
    },
    "clip_rn50": {
        "embed_dim": 1024,
        "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "head_width": 64},
        "text_cfg": _TEXT,
        "quick_gelu": True,
    },
    "clip_vit_tiny": TINY,
}


def architecture(name: str, weights: str | None = None, activation: str = "") -> dict:
    """A fresh copy of the sizes of `name`: `name`, `embed_dim`, `vision_cfg`, `text_cfg`, `quick_gelu`.

    Args:
        weights: `backbone.weights`, where a config names them: a tag of open_clip's decides the activation, and a file
            of another's has to have it stated. None: OpenAI's activation, whatever is loaded.
        activation: `backbone.activation`, which a file's user states; kept as `activation` beside `weights`.

    Raises:
        ConfigError: no CLIP of that name, or no such tag for it.
    """
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"no CLIP is called {name!r}{hint}; there are: {', '.join(ARCHITECTURES)}")
    sizes = copy.deepcopy(ARCHITECTURES[name])
    if weights is None:
        return {"name": name, **sizes}
    sizes["quick_gelu"] = quick_gelu(name, weights, activation, sizes["quick_gelu"])
    return {"name": name, "activation": activation, **sizes}
