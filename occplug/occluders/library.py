"""An occluder library: a folder of RGBA pictures, each trimmed to one object, and `index.json`.

`index.json` is {"version": 1, "cutouts": [...]}; an entry has `file`, `category`, `width`, `height` (pixels),
`alpha_mean` (in [0, 1], over the picture), `source`, `licence` and `split`.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from occplug.errors import DataError
from occplug.occluders.categories import Category, read_categories
from occplug.utils.files import user_path
from occplug.utils.imagefile import open_picture
from occplug.utils.texts import read_json

__all__ = ["EMBEDDED_LIBRARY", "INDEX", "Cutout", "Library", "premultiplied", "read_library"]

log = logging.getLogger(__name__)
EMBEDDED_LIBRARY = Path(__file__).parents[1] / "assets" / "occluders"
INDEX = "index.json"
FIELDS = ("file", "category", "width", "height", "alpha_mean", "source", "licence", "split")
_MAKE = "`occplug build-occluders` makes a library"


@dataclass(frozen=True, eq=False)
class Cutout:
    """One object.

    Args:
        file: its path.
        category: row of the category table.
        rgba: uint8 [h, w, 4], colours premultiplied by alpha.
        alpha_mean: mean alpha over the picture, in [0, 1].
    """

    file: Path
    category: Category
    rgba: np.ndarray
    alpha_mean: float

    @property
    def aspect(self) -> float:
        """Width / height."""
        return self.rgba.shape[1] / self.rgba.shape[0]


class Library:
    """Cut-outs by category, decoded.

    Args:
        folder: where it was read from.
        split: whose cut-outs it holds.
        categories: file of the category table, empty for the package's own.
        cutouts: in the order of the index.

    Attributes:
        kept: sizes that were made ahead, of :class:`occplug.transforms.shapes.Shapes`.
    """

    def __init__(self, folder: str, split: str, categories: str, cutouts: list[Cutout]):
        self.folder, self.split, self.categories = folder, split, categories
        self.cutouts = cutouts
        self.kept: dict[tuple, np.ndarray] = {}
        self.table: Mapping[str, Category] = read_categories(categories)
        self.by_category: dict[str, list[Cutout]] = {}
        for cutout in cutouts:
            self.by_category.setdefault(cutout.category.name, []).append(cutout)

    def __len__(self) -> int:
        return len(self.cutouts)

    def __reduce__(self):
        # a process that is spawned reads the files itself; one that is forked has the pictures already
        return read_library, (self.folder, self.split, self.categories)


def premultiplied(rgba: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 4] -> the same with colours times alpha, rounded.

    Only such pixels may be averaged: the colour of transparent ones, often white, would leak into the border.
    """
    colours = rgba[..., :3].astype(np.uint16) * rgba[..., 3:] + 127
    return np.dstack([(colours // 255).astype(np.uint8), rgba[..., 3]])


def read_library(folder: str | os.PathLike = "", split: str = "train", categories: str = "") -> Library:
    """The library in `folder`, once per process.

    Args:
        folder: empty for the library that comes with the package.
        split: only cut-outs of this split; training must never see another.
        categories: file of the category table; empty for the package's own.

    Raises:
        DataError: no folder, no index, an entry that is not as it should be, an unknown category, a missing file, a
            picture without alpha or with empty alpha, or no cut-out of that split. Names the file and the cure.
        ConfigError: the category table cannot be read.
    """
    return _read(os.path.abspath(user_path(folder or EMBEDDED_LIBRARY)), split, categories)


@functools.lru_cache(maxsize=8)
def _read(folder: str, split: str, categories: str) -> Library:
    path = Path(folder)
    table = read_categories(categories)
    entries = _entries(path)
    for number, entry in enumerate(entries):
        _check(path / INDEX, number, entry, table)
    wanted = [entry for entry in entries if entry["split"] == split]
    if not wanted:
        splits = ", ".join(sorted({str(entry["split"]) for entry in entries})) or "none"
        raise DataError(f"{path / INDEX}: no cut-out has split {split!r}; the splits there are: {splits}")
    cutouts = [_cutout(path / entry["file"], table[entry["category"]]) for entry in wanted]
    if path == Path(EMBEDDED_LIBRARY).absolute():
        log.info("occluders: the %d drawn cut-outs of the package; %s of real ones", len(cutouts), _MAKE)
    else:
        log.info("occluders: %d cut-outs of %s", len(cutouts), folder)
    return Library(folder, split, categories, cutouts)


def _entries(folder: Path) -> list:
    index = folder / INDEX
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of occluders; {_MAKE}")
    if not index.is_file():
        raise DataError(f"{folder}: the folder has no {INDEX}, so it is no occluder library; {_MAKE} from its pictures")
    try:
        content = read_json(index)
        return list(content["cutouts"])
    except (ValueError, KeyError, TypeError) as error:
        shape = '{"version": 1, "cutouts": [...]}'
        raise DataError(f"{index}: not an occluder index, which is json of the form {shape} ({error!r})") from error


def _check(index: Path, number: int, entry, table: Mapping[str, Category]) -> None:
    missing = [key for key in FIELDS if not isinstance(entry, dict) or key not in entry]
    if missing:
        raise DataError(f"{index}: entry {number} lacks {', '.join(missing)}; make the library again")
    if not all(isinstance(entry[key], str) for key in ("category", "file")):
        raise DataError(f"{index}: category and file of entry {number} are not both text; make the library again")
    if entry["category"] not in table:
        known = ", ".join(table)
        raise DataError(f"{index}: {entry['file']} has the unknown category {entry['category']!r}; known are: {known}")


def _cutout(file: Path, category: Category) -> Cutout:
    if not file.is_file():
        raise DataError(f"{file}: the file that {INDEX} names is missing; restore it, or make the library again")
    rgba = np.asarray(open_picture(file, "RGBA"))
    if not rgba[..., 3].any():
        raise DataError(f"{file}: the alpha channel is empty: nothing would be visible; delete the file and its entry")
    return Cutout(file, category, premultiplied(rgba), float(rgba[..., 3].mean() / 255))
