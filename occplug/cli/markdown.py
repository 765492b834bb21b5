"""Tables in documents, put there by the command that measured them."""

from __future__ import annotations

from pathlib import Path

from occplug.engine import write_atomically
from occplug.errors import ConfigError

__all__ = ["replace_marked"]

END = "<!-- end -->"


def replace_marked(file: Path, mark: str, text: str) -> None:
    """Put `text` between the lines `<!-- mark -->` and `<!-- end -->` of `file`.

    Raises:
        ConfigError: the file has no such lines.
    """
    start = f"<!-- {mark} -->"
    content = file.read_text() if file.exists() else ""
    head, found, rest = content.partition(start)
    if not found or END not in rest:
        raise ConfigError(f"{file} has no lines {start!r} and {END!r} to put the table between")
    tail = rest[rest.index(END) :]
    write_atomically(file, lambda temporary: temporary.write_text(f"{head}{start}\n{text}\n{tail}"))
