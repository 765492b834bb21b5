"""Initial weights of a lone image tower."""

from __future__ import annotations

from typing import Any

from occplug.backbones.licences import licence_of, pass_licence
from occplug.backbones.tower import Tower
from occplug.backbones.weights import AroundCLIP, load_clip

__all__ = ["load_initial"]


def load_initial(source: str, backbone: Tower | AroundCLIP) -> None:
    """Fill `backbone` with the initial weights that `source` names.

    Args:
        source: "none", a name that the tower has weights for, or the path of a file in a layout that it reads; for a
            CLIP as :func:`occplug.backbones.weights.load_clip`.

    Raises:
        CheckpointError: no file, damaged, unsafe to read, or tensors that do not fit; a file that does not fit changes
            nothing.
        ConfigError: a named source that has no weights for this backbone.
    """
    tower: Any = backbone
    if hasattr(tower, "clip"):
        load_clip(source, tower)
    elif source != "none":
        pass_licence(licence_of(tower.name, source))
        tower.load(source)
