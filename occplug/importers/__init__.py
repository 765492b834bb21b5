"""Official checkpoints, read into our models: a rename table, a shape check and a key report for each source."""

from __future__ import annotations

import difflib
from functools import partial

from occplug.backbones.licences import OFFICIAL, Licence, pass_licence
from occplug.backbones.lsnet import LSNet
from occplug.errors import ConfigError
from occplug.importers import clip_reid, human_centric, lsnet, openai_clip, profd, torchreid_stock, vit_family
from occplug.method import Method

__all__ = ["load_official"]

# source -> function of (checkpoint, image_size, num_cameras, neck)
SOURCES = {
    "openai_clip": openai_clip.load,
    "clip_reid": clip_reid.load,
    "profd": profd.load,
    "lsnet": lsnet.load,
    "transreid": vit_family.load_transreid,
    "dpm": vit_family.load_dpm,
    "spt_sps": vit_family.load_spt_sps,
    "spt_reid": vit_family.load_spt_reid,
    "personvit": human_centric.load_personvit,
    "transreid_ssl": human_centric.load_personvit,  # PersonViT forked its code: the same layout
    "solider": human_centric.load_solider,
}
_STOCK = "torchreid:"


def load_official(
    source: str,
    checkpoint,
    image_size: tuple[int, int] = (256, 128),
    num_cameras: int | None = None,
    neck: str = "before",
) -> Method | LSNet:
    """A model of another code base with its weights, in eval mode; `.embed(images, camids)` is its test feature.

    For `lsnet` it is the backbone alone, and `.forward_features(images)` gives the outputs of its four stages.

    Args:
        source: `openai_clip`, `clip_reid`, `profd`, `lsnet`, `transreid`, `dpm`, `spt_sps`, `spt_reid`,
            `personvit`, `transreid_ssl`, `solider`, or `torchreid:<model name>`, e.g.
            `torchreid:osnet_x1_0`.
        checkpoint: path, or a state dict in the official naming; a prefix `module.` is allowed.
        image_size: (height, width) of the images in pixels.
        num_cameras: cameras of a model with camera embedding; None: as the file says.
        neck: test feature before or after the batch norm neck, where there is one.

    Raises:
        ConfigError: unknown source, or `neck` is neither "before" nor "after".
        CheckpointError: unreadable, or every name that is wrongly shaped, missing or unknown. Official names that are
            not needed are listed in the log.
    """
    if neck not in ("before", "after"):
        raise ConfigError(f"neck is {neck!r}; there are: before, after")
    if source in OFFICIAL:
        pass_licence(Licence(OFFICIAL[source], f"the weights of {source}"))
    return _loader(source)(checkpoint, image_size, num_cameras, neck)


def _loader(source: str):
    if source.startswith(_STOCK) and source != _STOCK:
        return partial(torchreid_stock.load, model=source.removeprefix(_STOCK))
    if source not in SOURCES:
        known = [*SOURCES, f"{_STOCK}<model name>"]
        near = difflib.get_close_matches(source, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"no source of checkpoints is called {source!r}{hint}; there are: {', '.join(known)}")
    return SOURCES[source]
