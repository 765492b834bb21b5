"""Tables of documents, with the commands that make them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from occplug.errors import ConfigError
from occplug.utils.texts import read_text

__all__ = ["MarkedTable", "marked_tables"]

MARK = re.compile(r"^<!-- ((?:compare|ablate) [^>]+?) -->\n(.*?)^<!-- end -->", re.S | re.M)
COMMAND = re.compile(r"python tools/(compare|ablate)\.py ([^`\n]+)")


@dataclass(frozen=True)
class MarkedTable:
    """A table between its marks.

    Args:
        document: the file it stands in.
        mark: `compare NAME` or `ablate CONFIG TABLE`.
        command: `compare` or `ablate`.
        words: its arguments.
    """

    document: Path
    mark: str
    command: str
    words: list[str]


def marked_tables(document: Path) -> list[MarkedTable]:
    """The tables of `document`, in order.

    Raises:
        ConfigError: no such file, none in it, or one that does not stand with one command.
    """
    try:
        text = read_text(document)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{document} cannot be read as a page in UTF-8 ({error})") from error
    tables = []
    for mark, body in MARK.findall(text):
        commands = COMMAND.findall(body)
        if len(commands) != 1:
            raise ConfigError(f"{document}: {len(commands)} commands stand between the marks of {mark!r}; write one")
        tables.append(MarkedTable(document, mark, commands[0][0], shlex.split(commands[0][1])))
    if not tables:
        raise ConfigError(f"{document} has no table between marks such as <!-- compare NAME --> and <!-- end -->")
    return tables
