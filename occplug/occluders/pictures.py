"""Cut-outs that exist already: a folder of RGBA pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from occplug.errors import DataError
from occplug.occluders.categories import read_categories
from occplug.occluders.writing import Piece, trimmed
from occplug.utils.files import user_path
from occplug.utils.imagefile import open_picture

__all__ = ["CutoutPictures"]

SUFFIXES = (".png", ".webp", ".tif", ".tiff")


class CutoutPictures:
    """The RGBA pictures in a folder; iterating reads them.

    The category is the name of the subfolder a picture lies in, or else its file name without number and suffix:
    `bicycle/a.png` and `bicycle_07.png` are bicycles; `fire_hydrant_1.png` is a fire hydrant.

    Args:
        folder: searched with its subfolders, in the order of the names.
        categories: file of the category table; empty for the package's own.
        licence: of the pictures, for the index.
        rename: category in the names -> category in the table, for folders with other names.

    Raises:
        DataError: no folder or no picture; a category that is not in the table; while iterating, a picture without
            alpha, with empty alpha, or that cannot be read.
    """

    def __init__(self, folder, categories: str = "", licence: str = "unknown", rename: dict[str, str] | None = None):
        self.folder, self.licence = user_path(folder), licence
        if not self.folder.is_dir():
            raise DataError(f"{folder}: there is no such folder of cut-outs")
        files = sorted(file for file in self.folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not files:
            raise DataError(f"{folder}: the folder has no picture ({', '.join(SUFFIXES)})")
        table, rename = read_categories(categories), rename or {}
        self.files = [(file, rename.get(name := self._name(file), name)) for file in files]
        for file, name in self.files:
            if name not in table:
                raise DataError(f"{file}: its category {name!r} is unknown; known are: {', '.join(table)}")

    def _name(self, file: Path) -> str:
        name = file.stem if file.parent == self.folder else file.parent.name
        return re.sub(r"[\s_-]*\d*$", "", name).replace("_", " ").lower()

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Piece]:
        for file, category in self.files:
            yield Piece(category, _trimmed(file), {"file": file.name}, self.licence)


def _trimmed(file: Path) -> np.ndarray:
    rgba = np.asarray(open_picture(file, "RGBA"))
    try:
        return trimmed(rgba)
    except ValueError as error:
        raise DataError(f"{file}: {error}, so nothing would be visible; delete the file") from error
