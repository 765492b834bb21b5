"""Tables in documents, put there by the command that measured them."""

from __future__ import annotations

from pathlib import Path

from occplug.engine import write_atomically
from occplug.errors import ConfigError

__all__ = ["demand_marks", "replace_marked"]

END = "<!-- end -->"


def demand_marks(file: Path, mark: str) -> tuple[str, str]:
    """What is before the line `<!-- mark -->` of `file`, and what from the next `<!-- end -->` on.

    Raises:
        ConfigError: the file has no such lines.
    """
    start = f"<!-- {mark} -->"
    head, found, rest = (file.read_text() if file.exists() else "").partition(start)
    if not found or END not in rest:
        raise ConfigError(f"{file} has no lines {start!r} and {END!r} to put the table between")
    return head, rest[rest.index(END) :]


def replace_marked(file: Path, mark: str, text: str) -> None:
    """Put `text` between the lines `<!-- mark -->` and `<!-- end -->` of `file`. Raises as :func:`demand_marks`."""
    head, tail = demand_marks(file, mark)
    write_atomically(file, lambda temporary: temporary.write_text(f"{head}<!-- {mark} -->\n{text}\n{tail}"))
