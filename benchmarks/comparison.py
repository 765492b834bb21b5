"""What a benchmark returns, and its table."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from occplug.utils.measuring import Figures

__all__ = ["Comparison", "Rows", "table", "torchreid"]

HEADS = ("", "CPU s", "wall s", "memory MiB")


@dataclass
class Comparison:
    """One table: `theirs` against `ours`.

    Args:
        title: what was done, with sizes.
        alternative: what `theirs` is.
        theirs, ours: figures; memory is beside the inputs.
        note: how far the results agree.
    """

    title: str
    alternative: str
    theirs: Figures
    ours: Figures
    note: str


@dataclass
class Rows:
    """One table of more than two sides, all measured in the same run.

    Args:
        title: what was done, with sizes.
        heads: of the columns.   rows: texts.
        note: what the columns mean.
    """

    title: str
    heads: Sequence[str]
    rows: list[list[str]]
    note: str


def table(result: Comparison | Rows) -> str:
    """`result` as Markdown: a title, its rows, a note."""
    if isinstance(result, Rows):
        alignment = ("left", *["right"] * (len(result.heads) - 1))
        lines = tabulate(result.rows, result.heads, tablefmt="github", disable_numparse=True, colalign=alignment)
        return f"{result.title}\n\n{lines}\n\n{result.note}"
    sides = [(result.alternative, result.theirs), ("occplug", result.ours)]
    rows = [[name, f"{f.cpu:.3g}", f"{f.wall:.3g}", f"{f.memory:,.0f}"] for name, f in sides]
    pairs = [(getattr(result.theirs, key), getattr(result.ours, key)) for key in ("cpu", "wall", "memory")]
    rows.append(["ratio", *(f"x{a / b:.3g}" if b else "-" for a, b in pairs)])
    lines = tabulate(rows, HEADS, tablefmt="github", disable_numparse=True, colalign=("left", *["right"] * 3))
    return f"{result.title}\n\n{lines}\n\n{result.note}"


def torchreid() -> str:
    """What torchreid is called in tables."""
    return f"torchreid {importlib.metadata.version('torchreid')}"
