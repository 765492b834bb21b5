"""A zoo entry from a config file: what it is follows from its keys, what is published from its header."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from occplug.config import find_config, load_config, shipped_configs
from occplug.errors import ConfigError
from occplug.registry import model_class
from occplug.zoo.index import Entry, Index, Published

__all__ = ["add_entries", "entry_of_config"]

_TAGS = {
    "clip_vit_b16": "vit_b16",
    "clip_rn50": "rn50",
    "clip_vit_tiny": "vit_tiny",
    **{f"solider_swin_{size}": f"swin_{size}" for size in ("t", "s", "b", "mini")},
}
_PUBLISHED = re.compile(r"Published mAP / Rank-1: (?:(\d+\.\d|-) / (\d+\.\d|-)|not published)(.*)")
_LINES = ("Run:", "Published", "Source:", "Measured", "Not measured")


def entry_of_config(file: Path, name: str | None = None) -> Entry:
    """The entry of a file of `configs/`, without figures of ours and without checkpoint.

    Args:
        name: method/variant/data; by default made from the method, backbone and file name.

    Raises:
        ConfigError: as `load_config`; the file is not in `configs/`, where entries' configs are looked for; or the
            header has no line of published figures.
    """
    file = find_config(file)
    cfg = load_config(file)
    header = _header(file)
    if model_class(cfg.model.name).is_stock:
        code, weights = "torchreid", "imagenet" if cfg.model.pretrained else "none"
    else:
        # a file is called by its name; the small towers' weights in the package by theirs
        code, weights = cfg.model.name, Path(cfg.backbone.weights).stem
    licence = {"code": code, "weights": weights, "data": cfg.data.sources[0]}
    published, remark = _published(header, file)
    if file.resolve().parent != shipped_configs():
        raise ConfigError(f"{file}: the zoo's configs are in {shipped_configs()}; copy the file there")
    return Entry(
        name=name or _name(cfg, file.stem),
        method=cfg.model.name,
        config=f"configs/{file.name}",
        data=cfg.data.targets[0],
        published=published,
        notes=" ".join([*remark, *header["notes"]]),
        licence=licence,
    )


def _name(cfg, stem: str) -> str:
    method, data = cfg.model.name, stem.rpartition("_")[2]
    if model_class(method).is_stock:
        return f"torchreid/{method}/{data}"
    hybrid = cfg.backbone.get(cfg.backbone.name) or {}
    backbone = hybrid.get("clip", cfg.backbone.name)  # of a hybrid, the CLIP tower in it
    tag = _TAGS.get(backbone, backbone)
    words = stem.removeprefix(method).removesuffix(data).replace(f"_{tag}_", "_").strip("_")
    return f"{method}/{'_'.join(filter(None, [tag, words]))}/{data}"


def _header(file: Path) -> dict[str, list[str]]:
    """Sentences of the comment at the file's head: `published`, `source`, and `notes`, which are all others."""
    parts: dict[str, list[str]] = {"published": [], "source": [], "notes": []}
    where = None  # of the present sentence; None for lines that are of no use here
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        text = line[2:]
        start = next((word for word in _LINES if text.startswith(word)), None)
        if start is not None:
            where = {"Published": "published", "Source:": "source"}.get(start)
            text = text.removeprefix("Source: ")
        elif where not in (None, "notes") and parts[where][-1].endswith("."):
            where = "notes"  # a sentence of its own, not the rest of one
        if where is not None:
            parts[where].append(text)
    return parts


def _published(header: dict[str, list[str]], file: Path) -> tuple[tuple[Published, ...], list[str]]:
    """What the header says is published, and its remark on that."""
    match = _PUBLISHED.match(" ".join(header["published"]))
    if match is None:
        raise ConfigError(f"{file}: its header needs a line '# Published mAP / Rank-1: 12.3 / 45.6' or 'not published'")
    figures = [None if value in (None, "-") else float(value) for value in match.groups()[:2]]
    remark = match[3].strip(" .")
    if figures == [None, None]:
        return (), [f"Not published {remark}."] if remark else []
    remark = remark.strip("()")
    source = " ".join(header["source"]).rstrip(".")
    if not source:
        raise ConfigError(f"{file}: its header gives published figures and needs a line '# Source: ...'")
    mean_ap, rank1 = figures
    return (Published(mean_ap, rank1, source),), [f"{remark[0].upper()}{remark[1:]}."] if remark else []


def add_entries(index: Index, files: Sequence[Path], name: str | None = None) -> list[str]:
    """Put entries for config `files` into `index` and write it; what is measured and where weights are stays.

    Args:
        name: of a single entry; by default made from the config.

    Returns: a line an entry, which says whether it is new.

    Raises:
        ConfigError: one name for several files, a name that another config has, or a header that cannot be read.
    """
    if name is not None and len(files) > 1:
        raise ConfigError(f"--name is of one entry, but {len(files)} config files are given; leave it out")
    lines = []
    for file in files:
        new = entry_of_config(file, name)
        # code that no entry had before is of this repository, like its licence
        index.licences["code"].setdefault(new.licence["code"], "this repository MIT")
        old = index.entries.get(new.name)
        if old is not None:
            if old.config != new.config:
                raise ConfigError(f"{new.name} is already the entry of {old.config}; choose another --name for {file}")
            new = dataclasses.replace(new, ours=old.ours, checkpoint=old.checkpoint, log=old.log)
        index.put(new)
        lines.append(f"{new.name}: {'as its config says now' if old else 'added'}")
    index.write()
    return lines
