"""Thumbnails of many pictures in one JPEG, of bounded size and made in bounded time."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from occplug.errors import DataError
from occplug.utils.imagefile import open_picture

__all__ = ["Sprite"]

PICTURES = 4000  # at most
FEW = 1500  # up to so many are drawn larger
SMALL, LARGE = (40, 80), (56, 112)  # width and height of a thumbnail, in pixels
QUALITY = 72  # of the JPEG
COLUMNS = 64


@dataclass
class Sprite:
    """Pictures in a grid, first wished first placed.

    Args:
        root: folder in place of `old_root`, at the head of paths; empty: paths are as they were.
        old_root: where the pictures lay when the paths were written.
        limit: most pictures.
        seconds: no further picture is read after so long.
    """

    root: str = ""
    old_root: str = ""
    limit: int = PICTURES
    seconds: float = 60.0
    _places: dict[str, int] = field(default_factory=dict)
    missing: int = 0

    def wish(self, paths: Iterable[str]) -> None:
        """Reserve places for `paths`, as far as there are any."""
        for path in paths:
            if len(self) >= self.limit:
                return
            self._places.setdefault(str(path), len(self))

    def __len__(self) -> int:
        """Pictures that have a place."""
        return len(self._places)

    def place(self, path: str) -> int:
        """Number of the picture's cell; -1 if it has none."""
        return self._places.get(str(path), -1)

    @property
    def cell(self) -> tuple[int, int]:
        """Width and height of a thumbnail."""
        return LARGE if len(self) <= FEW else SMALL

    def drawn(self) -> str:
        """The JPEG, base64; empty without a picture. What cannot be read, or not in time, loses its place."""
        if not len(self):
            return ""
        (width, height), until = self.cell, time.monotonic() + self.seconds
        rows = -(-len(self) // COLUMNS)
        sheet = Image.new("RGB", (min(len(self), COLUMNS) * width, rows * height), "#dddddd")
        for path, place in list(self._places.items()):
            try:
                if time.monotonic() > until:
                    raise DataError("no time is left")
                picture = open_picture(self._moved(path))
                picture.thumbnail((4 * width, 4 * height), Image.Resampling.BOX)  # most of the work for large ones
                cell = picture.resize((width, height), Image.Resampling.BILINEAR)
            except DataError:
                del self._places[path]
                self.missing += 1
                continue
            sheet.paste(cell, (place % COLUMNS * width, place // COLUMNS * height))
        if not len(self):
            return ""
        content = io.BytesIO()
        sheet.save(content, "JPEG", quality=QUALITY)
        return base64.b64encode(content.getvalue()).decode()

    def _moved(self, path: str) -> str:
        if self.root and self.old_root:
            try:
                return str(Path(self.root) / Path(path).absolute().relative_to(Path(self.old_root).absolute()))
            except ValueError:
                return path
        return path
