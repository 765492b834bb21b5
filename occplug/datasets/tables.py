"""Tables of images: CSV files with a column `path`, read alike as data sets (`csv:FILE`) and as metadata."""

from __future__ import annotations

import csv
import io
import os

from occplug.errors import DataError
from occplug.utils.files import is_text, user_path

__all__ = ["Line", "path_in", "read_table"]

Line = tuple[int, dict[str, str]]  # number in the file, and column -> text
_WRONG_SIGNS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_table(file: str | os.PathLike) -> tuple[list[str], list[Line]]:
    """Header and lines of the CSV `file`, without spaces around names and texts; blank lines are passed over.

    A cell that is missing is an empty text. A mark of the encoding at the start (BOM) is no part of the first name.

    Raises:
        DataError: cannot be read, is not in UTF-8, or has other signs than commas between its columns.
    """
    try:
        with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            reader = csv.DictReader(io.StringIO(stream.read(), newline=""), skipinitialspace=True, restval="")
            header = [(name or "").strip() for name in reader.fieldnames or ()]
            reader.fieldnames = header
            lines = [
                (reader.line_num, {key: (line[key] or "").strip() for key in header if key})
                for line in reader
                if any(str(value).strip() for value in line.values())
            ]
    except (OSError, csv.Error) as error:
        raise DataError(f"{file} cannot be read as a CSV ({error})") from error
    if not all(map(is_text, header)):
        raise DataError(f"{file} is no CSV in UTF-8: save it as one")
    wrong = [name for sign, name in _WRONG_SIGNS.items() if len(header) == 1 and sign in header[0]]
    if wrong:
        raise DataError(f"{file}: the header is {header[0]!r} with {wrong[0]}; put commas between the columns")
    return header, lines


def path_in(file: str | os.PathLike, path: str) -> str:
    """The whole path of the image that a line of the table `file` calls `path`, which is relative to its folder."""
    return os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(file)), str(user_path(path))))
