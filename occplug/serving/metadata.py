"""Metadata of images from a CSV file: a column `path`, and any others."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from occplug.datasets.boxes import read_boxes
from occplug.errors import DataError
from occplug.serving.pictures import BOXES, is_boxes

__all__ = ["metadata_of_boxes", "number_or_text", "read_metadata"]


def read_metadata(file, paths: Sequence[str]) -> dict[str, list]:
    """Columns of the CSV `file` for the images `paths`, in their order; numbers become numbers, empty cells None.

    A row belongs to an image if its `path` is the same, as it stands or from the file's folder.

    Raises:
        DataError: no such file, no column `path`, an image that no row is about, or one that several are about.
    """
    file = Path(file)
    try:
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            reader = csv.DictReader(stream)
            rows, header = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read as CSV ({error})") from error
    if "path" not in header:
        raise DataError(f"{file}: there is no column 'path'; its header is: {', '.join(map(str, header)) or 'empty'}")
    by_path: dict[Path, dict] = {}
    for row in rows:
        for place in {Path(row["path"]).absolute(), (file.parent / row["path"]).absolute()}:
            if by_path.get(place, row) is not row:
                raise DataError(f"{file}: {row['path']} is listed twice")
            by_path[place] = row
    missing = [path for path in paths if Path(path).absolute() not in by_path]
    if missing:
        raise DataError(f"{file}: no row is about {missing[0]} ({len(missing)} of {len(paths)} images have none)")
    chosen = [by_path[Path(path).absolute()] for path in paths]
    return {name: [number_or_text(row[name]) for row in chosen] for name in header if name and name != "path"}


def metadata_of_boxes(inputs: Sequence[str], paths: Sequence[str]) -> dict[str, list]:
    """`pid` and `camera` of the images `paths`, as the `coco:FILE` among `inputs` tell them; None where nothing does.

    Nothing at all if no box tells either.
    """
    known = {box.name: box for given in inputs if is_boxes(given) for box in read_boxes(given[len(BOXES) :])[0]}
    boxes = [known.get(path) for path in paths]
    columns = {
        "pid": [number_or_text(box.person) if box else None for box in boxes],
        "camera": [number_or_text(box.camera) if box else None for box in boxes],
    }
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}


def number_or_text(text: str | None) -> int | float | str | None:
    """A cell of a CSV file as what it most likely is; empty is None."""
    if text is None or not text.strip():
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
