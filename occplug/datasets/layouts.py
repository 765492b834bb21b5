"""Where a data set may lie below `data.root`, and what a folder really holds when it is not there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from occplug.errors import DataError

__all__ = ["Layout", "Part", "find_layout", "holds", "inventory"]

_CONTAINERS = (  # folders of other sets in which public repositories keep a set
    "dukemtmcreid",
    "dukemtmc-reid",
    "market1501",
    "ICME2018_Occluded-Person-Reidentification_datasets",
)
_SHOWN = 6  # names in a message


@dataclass(frozen=True)
class Part:
    """Images of one folder.

    Attributes:
        folder: path below the data set's folder.
        camera: 0-based camera of the images whose name tells none; None: every name must tell one.
        nested: the images lie in one subfolder per person, or flat.
    """

    folder: str
    camera: int | None = None
    nested: bool = False


@dataclass(frozen=True)
class Layout:
    """One way to arrange a data set; `train` is empty for sets that are for testing only."""

    train: tuple[Part, ...]
    query: Part
    gallery: Part

    @property
    def parts(self) -> tuple[Part, ...]:
        """All folders, training first."""
        return (*self.train, self.query, self.gallery)

    def __str__(self) -> str:
        return "{" + ", ".join(dict.fromkeys(part.folder for part in self.parts)) + "}"


def find_layout(name: str, root: str, folders: Sequence[str], layouts: Sequence[Layout]) -> tuple[str, Layout]:
    """The folder of data set `name` below `root`, and which of `layouts` it has.

    Args:
        root: what `data.root` says; it may also be the data set's folder itself.
        folders: names of the data set's folder; case, `-`, `_` and `.` make no difference.
    Raises:
        DataError: no such root or folder in it, or another layout; the message says what is there and what is accepted.
    """
    if not os.path.isdir(root):
        cure = f"set data.root (or --root) to the folder that holds {folders[0]}"
        raise DataError(f"{name}: the data root {root} is not a folder; {cure}")
    candidates = _candidates(root, folders)
    for folder in candidates:
        for layout in layouts:
            if all(os.path.isdir(os.path.join(folder, part.folder)) for part in layout.parts):
                return folder, layout
    accepted = f"accepted layouts: {' or '.join(f'{folders[0]}/{layout}' for layout in layouts)}"
    if not candidates:
        raise DataError(
            f"{name}: {root} holds no folder {' or '.join(folders)}, but {inventory(root)}; "
            f"set data.root (or --root) to the folder that holds it; {accepted}"
        )
    inventories = "; ".join(f"{folder} holds {inventory(folder)}" for folder in candidates)
    raise DataError(f"{name}: its folder has an unknown layout: {inventories}; {accepted}")


def holds(root: str, folders: Sequence[str]) -> bool:
    """Whether the folder `root` is or holds a folder with one of these names, whatever its layout."""
    return bool(_candidates(root, folders))


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _candidates(root: str, folders: Iterable[str]) -> list[str]:
    """Folders that may be the data set's: `root` itself, one level below, two levels below."""
    wanted = [_plain(folder) for folder in folders]
    itself = [root] if _plain(os.path.basename(root)) in wanted else []
    outer = _matching(root, wanted)
    holders = [*outer, *_matching(root, [_plain(container) for container in _CONTAINERS])]
    inner = [path for folder in holders for path in _matching(folder, wanted)]
    return list(dict.fromkeys([*itself, *outer, *inner]))


def _matching(folder: str, wanted: list[str]) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _plain(entry.name) in wanted and entry.is_dir()]
    return [os.path.join(folder, name) for name in sorted(names, key=lambda name: (wanted.index(_plain(name)), name))]


def inventory(folder: str) -> str:
    """What `folder` holds, in words: its subfolders, and how many files of each ending."""
    with os.scandir(folder) as entries:
        visible = [(entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    subfolders = sorted(name for name, is_folder in visible if is_folder)
    endings = Counter(os.path.splitext(name)[1].lower() or "no ending" for name, is_folder in visible if not is_folder)
    words = [f"{count} file{'s'[: count > 1]} with {ending}" for ending, count in sorted(endings.items())]
    if subfolders:
        more = f", ... ({len(subfolders)} in all)" if len(subfolders) > _SHOWN else ""
        words.insert(0, f"subfolder{'s'[: len(subfolders) > 1]} {', '.join(subfolders[:_SHOWN])}{more}")
    return ", ".join(words) or "nothing"
