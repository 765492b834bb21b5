"""Tables in documents, put there by the command that measured them."""

from __future__ import annotations

from pathlib import Path

from occplug import _moved
from occplug.errors import ConfigError
from occplug.utils.files import write_atomically
from occplug.utils.texts import read_text

__all__ = ["check_marks", "replace_marked"]

__getattr__ = _moved.older_names(__name__)

END = "<!-- end -->"


def check_marks(file: Path, mark: str) -> tuple[str, str]:
    """What is before the line `<!-- mark -->` of `file`, and what from the next `<!-- end -->` on.

    Raises:
        ConfigError: the file has no such lines, or is not text.
    """
    start = f"<!-- {mark} -->"
    try:
        text = read_text(file) if file.exists() else ""
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} is no page in UTF-8 ({error}); name another") from error
    head, mark_line, rest = text.partition(start)
    if not mark_line or END not in rest:
        raise ConfigError(f"{file} has no lines {start!r} and {END!r} to put the table between")
    return head, rest[rest.index(END) :]


def replace_marked(file: Path, mark: str, text: str) -> None:
    """Put `text` between the lines `<!-- mark -->` and `<!-- end -->` of `file`. Raises as :func:`check_marks`."""
    head, tail = check_marks(file, mark)
    write_atomically(file, lambda temporary: temporary.write_text(f"{head}<!-- {mark} -->\n{text}\n{tail}", "utf-8"))
