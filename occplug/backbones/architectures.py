"""Sizes of the CLIP models occplug knows, in open_clip's form of a model config."""

import copy
import difflib

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
        "quick_gelu": True,  # OpenAI trained with x * sigmoid(1.702 x); exact GELU moves features by 4e-2
    },
    "clip_rn50": {
        "embed_dim": 1024,
        "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "head_width": 64},
        "text_cfg": _TEXT,
        "quick_gelu": True,
    },
    "clip_vit_tiny": TINY,
}


def architecture(name: str) -> dict:
    """A fresh copy of the sizes of `name`: `name`, `embed_dim`, `vision_cfg`, `text_cfg`, `quick_gelu`.

    Raises:
        ConfigError: no CLIP of that name.
    """
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name, ARCHITECTURES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"no CLIP is called {name!r}{hint}; there are: {', '.join(ARCHITECTURES)}")
    return {"name": name, **copy.deepcopy(ARCHITECTURES[name])}
