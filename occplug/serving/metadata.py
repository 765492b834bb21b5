"""Metadata of images from a CSV file: a column `path`, and any others."""

from __future__ import annotations

import keyword
import math
import os
import re
from collections.abc import Sequence

from occplug.datasets.boxes import PERSON, read_boxes
from occplug.datasets.tables import path_in, read_table
from occplug.errors import DataError
from occplug.serving.pictures import BOXES, is_boxes
from occplug.utils.files import user_path

__all__ = ["check_name", "metadata_of_boxes", "number_or_text", "read_metadata", "typed"]

RESERVED = ("id", "distance")  # of a hit, beside its metadata
MOST_DIGITS = 19  # of a whole number: more are a text such as a serial number, which 64 bits may not hold


def read_metadata(file: str | os.PathLike, paths: Sequence[str]) -> dict[str, list]:
    """Columns of the CSV `file` for the images `paths`, in their order, as :func:`typed` gives them.

    The file is read as `csv:FILE` is. A line belongs to an image if its `path` is the same, from the file's folder or
    from the current one.

    Raises:
        DataError: no such file, no column `path`, a name that conditions could not use, an image that no line is about,
            or one that several are about.
    """
    file = user_path(file)
    header, lines = read_table(file)
    if "path" not in header:
        raise DataError(f"{file}: there is no column 'path'; its header is: {', '.join(header) or 'empty'}")
    names = [name for name in header if name and name != "path"]
    for name in names:
        check_name(name, f"{file}: ")
        if header.count(name) > 1:
            raise DataError(f"{file}: two columns are called {name}; rename one of them")
    by_path: dict[str, dict] = {}
    for number, line in lines:
        if by_path.setdefault(path_in(file, line["path"]), line) is not line:
            raise DataError(f"{file}, line {number}: {line['path']} is listed twice")
    for _, line in lines:
        by_path.setdefault(os.path.abspath(user_path(line["path"])), line)
    wanted = [os.path.abspath(user_path(path)) for path in paths]
    missing = [path for path, place in zip(paths, wanted) if place not in by_path]
    if missing:
        raise DataError(
            f"{file}: no line is about {missing[0]} ({len(missing)} of {len(paths)} images have none); paths are "
            "relative to the folder of the CSV, or whole"
        )
    return {name: typed(name, [by_path[place][name] for place in wanted]) for name in names}


def check_name(name: str, where: str = "") -> None:
    """Raise DataError for a name of metadata that conditions or hits cannot have; `where` it stands begins it."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise DataError(
            f"{where}metadata {name!r}: names are letters, digits and _, and no words of Python's grammar, so that "
            "conditions can use them; give it another name"
        )
    if name in RESERVED:
        raise DataError(f"{where}metadata {name!r}: hits have a value of that name already; give it another name")


def metadata_of_boxes(inputs: Sequence[str], paths: Sequence[str]) -> dict[str, list]:
    """`pid` and `camera` of the images `paths`, as the `coco:FILE` among `inputs` tell them; None where nothing does.

    Nothing at all if no box tells either.
    """
    known = {box.name: box for given in inputs if is_boxes(given) for box in read_boxes(given[len(BOXES) :])[0]}
    boxes = [known.get(path) for path in paths]
    columns = {
        "pid": typed("pid", [box.person if box else None for box in boxes]),
        "camera": typed("camera", [box.camera if box else None for box in boxes]),
    }
    return {name: values for name, values in columns.items() if any(value is not None for value in values)}


def typed(name: str, texts: Sequence[str | None]) -> list[int | float | str | None]:
    """The cells of the column `name`: numbers where all of them are, else the texts as they are; empty ones None.

    Identities (`pid`, `person_id`) are names, so they stay texts.
    """
    values = [(text or "").strip() or None for text in texts]
    numbers = [number_or_text(text) for text in values]
    is_text = name in PERSON or any(isinstance(number, str) for number in numbers)
    return list(values if is_text else numbers)


def number_or_text(text: str | None) -> int | float | str | None:
    """`text` as a number if it is written as numbers are, so that nothing is lost; empty is None.

    `0012`, `12_3`, `nan`, `1e400` and `12e3` are texts; numbers are written with a signed exponent, `1e-05`.
    """
    text = (text or "").strip()
    if re.fullmatch(r"-?(0|[1-9]\d*)", text, re.ASCII):
        return int(text) if len(text) < MOST_DIGITS else text
    if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]\d+)?", text, re.ASCII) and math.isfinite(float(text)):
        return float(text)
    return text or None
