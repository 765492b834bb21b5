"""Code blocks of a page of the docs: files that a reader would write."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
NAME = re.compile(r"# file: (\S+)\n")


def files_of(page: str) -> dict[str, str]:
    """Name -> text of every block of `docs/<page>` that begins with a line `# file: NAME`."""
    blocks = [text for _, text in BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))]
    named = [(NAME.match(text), text) for text in blocks]
    return {match[1]: text[match.end() :] for match, text in named if match}


def write(page: str, folder: Path) -> None:
    """Write the files of `page` into `folder`."""
    for name, text in files_of(page).items():
        (folder / name).write_text(text, encoding="utf-8")
