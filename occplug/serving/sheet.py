"""Contact sheets of ranked images: a row for each query or group, one PNG."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from occplug.errors import DataError
from occplug.serving.pictures import read_named
from occplug.utils.files import write_atomically

__all__ = ["Cell", "draw_ranked"]

_log = logging.getLogger(__name__)
WIDTH, HEIGHT, LINE, GAP = 96, 192, 14, 6
ROWS, COLUMNS = 100, 40  # of a sheet; 250 MB while it is drawn
Cell = tuple[str, str]  # path, text below


def draw_ranked(rows: Sequence[Sequence[Cell]], file) -> None:
    """Write `rows` of images with a line of text below each to the PNG `file`.

    A sheet has at most 100 rows of 40 images. What cannot be read is a grey field. The log says how many are, and how
    many are left out.
    """
    rows = _fitting(rows, file)
    columns = max((len(row) for row in rows), default=0)
    size = (GAP + columns * (WIDTH + GAP), GAP + len(rows) * (HEIGHT + LINE + GAP))
    sheet = Image.new("RGB", (max(size[0], 1), max(size[1], 1)), "white")
    pen = ImageDraw.Draw(sheet)
    missing = []
    for line, row in enumerate(rows):
        for column, (path, text) in enumerate(row):
            left, top = GAP + column * (WIDTH + GAP), GAP + line * (HEIGHT + LINE + GAP)
            thumbnail = _thumbnail(path)
            if thumbnail is None:
                missing.append(path)
            sheet.paste(thumbnail or "lightgrey", (left, top, left + WIDTH, top + HEIGHT))
            pen.text((left, top + HEIGHT), text[:16], fill="black")
    write_atomically(Path(file), lambda temporary: sheet.save(temporary, format="PNG"))
    if missing:
        shown = (file, len(missing), sum(map(len, rows)), missing[0])
        _log.warning("%s: %d of %d images cannot be read and are grey, e.g. %s; were they moved?", *shown)


def _fitting(rows: Sequence[Sequence[Cell]], file) -> list[Sequence[Cell]]:
    """What a sheet has room for."""
    drawn = [row[:COLUMNS] for row in rows[:ROWS]]
    left_out = sum(map(len, rows)) - sum(map(len, drawn))
    if left_out:
        facts = (file, ROWS, COLUMNS, left_out, len(rows) - len(drawn))
        _log.warning("%s: a sheet has at most %d rows of %d images; %d images are left out, with %d rows", *facts)
    return drawn


def _thumbnail(path: str) -> Image.Image | None:
    try:
        return read_named(path).resize((WIDTH, HEIGHT))
    except DataError:
        return None
