"""Contact sheets of ranked images: a row for each query or group, one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from occplug.errors import DataError
from occplug.serving.pictures import read_named
from occplug.utils.files import write_atomically

__all__ = ["Cell", "draw_ranked"]

WIDTH, HEIGHT, LINE, GAP = 96, 192, 14, 6
Cell = tuple[str, str]  # path, text below


def draw_ranked(rows: Sequence[Sequence[Cell]], file) -> None:
    """Write `rows` of images with a line of text below each to the PNG `file`; what cannot be read is a grey field."""
    columns = max((len(row) for row in rows), default=0)
    size = (GAP + columns * (WIDTH + GAP), GAP + len(rows) * (HEIGHT + LINE + GAP))
    sheet = Image.new("RGB", (max(size[0], 1), max(size[1], 1)), "white")
    pen = ImageDraw.Draw(sheet)
    for line, row in enumerate(rows):
        for column, (path, text) in enumerate(row):
            left, top = GAP + column * (WIDTH + GAP), GAP + line * (HEIGHT + LINE + GAP)
            sheet.paste(_thumbnail(path), (left, top))
            pen.text((left, top + HEIGHT), text[:16], fill="black")
    write_atomically(Path(file), lambda temporary: sheet.save(temporary, format="PNG"))


def _thumbnail(path: str) -> Image.Image:
    try:
        return read_named(path).resize((WIDTH, HEIGHT))
    except DataError:
        return Image.new("RGB", (WIDTH, HEIGHT), "lightgrey")
