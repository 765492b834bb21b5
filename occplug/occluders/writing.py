"""Writing a library: pictures and index go to a temporary folder, which takes its name when it is complete."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from occplug.errors import ConfigError, DataError
from occplug.occluders.library import INDEX
from occplug.utils.files import user_path, write_atomically

__all__ = ["LARGEST_SIDE", "Piece", "trimmed", "write_library"]

LARGEST_SIDE = 256  # pixels; no image in training is larger than twice this


@dataclass(frozen=True, eq=False)
class Piece:
    """A cut-out to be written.

    Args:
        category: name in the category table.
        rgba: uint8 [h, w, 4], colours not premultiplied.
        source: where it is from: data set, image, annotation.
        licence: of the picture it was cut from.
    """

    category: str
    rgba: np.ndarray
    source: dict = field(default_factory=dict)
    licence: str = "unknown"


def trimmed(rgba: np.ndarray, largest: int = LARGEST_SIDE) -> np.ndarray:
    """uint8 [h, w, 4] -> cut to the box of alpha > 0, and made smaller until no side is longer than `largest`.

    Raises ValueError if alpha is empty.
    """
    rows, columns = (np.flatnonzero((rgba[..., 3] > 0).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise ValueError("the alpha channel is empty")
    rgba = rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = rgba.shape[:2]
    if max(height, width) <= largest:
        return rgba
    factor = largest / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(rgba).resize(size, Image.Resampling.BICUBIC))  # PIL premultiplies RGBA itself


def write_library(folder: str | os.PathLike, pieces: Iterable[Piece], split: str = "train") -> dict[str, int]:
    """Write `pieces` as a library to `folder`, whole or not at all; returns category -> how many.

    Raises:
        ConfigError: `folder` exists already.
        OutputError: it cannot be written.
        DataError: there are no pieces.
    """
    folder = user_path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} exists already; remove it, or name another folder")
    entries: list[dict] = []

    def write(temporary: Path) -> None:
        temporary.mkdir()
        entries.extend(_write_pictures(temporary, pieces, split))
        if not entries:
            raise DataError(f"{folder} is not written: no cut-out was left")
        (temporary / INDEX).write_text(_index(entries), encoding="utf-8")

    write_atomically(folder, write)
    return dict(collections.Counter(entry["category"] for entry in entries))


def _write_pictures(folder: Path, pieces: Iterable[Piece], split: str) -> list[dict]:
    counts: collections.Counter = collections.Counter()
    entries = []
    for piece in pieces:
        name = f"{piece.category.replace(' ', '_')}_{counts[piece.category]:03d}.png"
        counts[piece.category] += 1
        visible = piece.rgba[..., 3] > 0
        # what cannot be seen need not be stored
        picture = Image.fromarray(np.where(visible[..., None], piece.rgba, 0))
        picture.save(folder / name, optimize=True)
        entries.append(
            {
                "file": name,
                "category": piece.category,
                "width": picture.width,
                "height": picture.height,
                "alpha_mean": round(float(piece.rgba[..., 3].mean() / 255), 4),
                "source": piece.source,
                "licence": piece.licence,
                "split": split,
            }
        )
    return entries


def _index(entries: list[dict]) -> str:
    rows = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    return f'{{"version": 1, "cutouts": [\n{rows}\n]}}\n'
