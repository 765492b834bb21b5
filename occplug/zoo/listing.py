"""The entries of the zoo as text, and where their weights are."""

from __future__ import annotations

from tabulate import tabulate

from occplug.errors import ConfigError
from occplug.zoo.fetching import cached_file
from occplug.zoo.index import Entry, Index

__all__ = ["describe_entry", "list_entries", "place_of_weights"]


def list_entries(index: Index, text: str = "") -> str:
    """A table of the entries whose names hold `text`.

    Raises:
        ConfigError: there is none.
    """
    rows = []
    for entry in index.entries.values():
        if text in entry.name:
            best = entry.published[0] if entry.published else None
            figures = (
                "" if best is None else " / ".join("-" if v is None else f"{v:.1f}" for v in (best.mAP, best.rank1))
            )
            rows.append([entry.name, figures, "measured" if entry.ours else "", place_of_weights(index, entry)])
    if not rows:
        raise ConfigError(f"no entry's name holds {text!r}; leave it out to see all {len(index.entries)}")
    return tabulate(rows, ["zoo://", "published mAP / R1", "ours", "weights"], disable_numparse=True)


def describe_entry(index: Index, entry: Entry) -> str:
    """Everything about one entry: its part of the index, its licences, where its weights are."""
    lines = [Index(index.file, {}, {entry.name: entry}).text().partition("entries:\n")[2].strip()]
    lines += [f"licence of {kind}: {index.licences[kind][name]}" for kind, name in entry.licence.items()]
    return "\n".join([*lines, f"weights: {place_of_weights(index, entry)}"])


def place_of_weights(index: Index, entry: Entry) -> str:
    """`none`, `in the package`, `downloaded`, `to be downloaded` or `in a checkout`."""
    if entry.checkpoint is None:
        return "none"
    packaged = index.path_of(entry)
    if packaged is not None and packaged.is_file():
        return "in the package"
    if cached_file(entry).is_file():
        return "downloaded"
    fetchable = entry.checkpoint.url or entry.checkpoint.drive
    return "to be downloaded" if fetchable else "in a checkout"
