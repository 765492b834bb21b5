"""`occplug tables`: the tables of documents, made again from kept runs; nothing is trained.

A table stands between its marks, `<!-- ablate CONFIG TABLE -->` or `<!-- compare NAME -->` and `<!-- end -->`, with the
command that makes it, and is made by that command.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io

from occplug.cli.arguments import NO_TRAINING
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, make the tables and print a line for each."""
    parser = argparse.ArgumentParser(
        "occplug tables",
        description="Make the tables of documents again, each by the command that stands with it, from the runs that "
        "its --keep has. Nothing is trained: a table with missing runs is left as it is, and they are named.",
        allow_abbrev=False,
    )
    parser.add_argument("documents", nargs="+", type=user_path, metavar="FILE", help="e.g. docs/ablations.md")
    text = "make an ablation table without rows that have missing runs, where its baseline and another row have none"
    parser.add_argument("--partial", action="store_true", help=text)
    args = parser.parse_args(argv)

    from occplug.experiments.documents import marked_tables

    tables = [table for document in args.documents for table in marked_tables(document)]
    made = 0
    for table in tables:
        result = _renew(table, args.partial)
        made += not result.startswith("left")
        print(f"{table.document}: {table.mark}: {result}", flush=True)
    print(f"{made} of {len(tables)} tables made")


def _renew(table, is_partial: bool) -> str:
    """Make `table` by its command if its runs are there; returns what was done."""
    from occplug.experiments.trainings import MissingRuns

    try:
        _run(table, table.words)
    except MissingRuns as error:
        rows = error.complete if is_partial and table.command == "ablate" else []
        if len(rows) < 2 or _baseline(table) not in rows:
            return f"left as it is: {error}"
        _run(table, [*_without_rows(table.words), "--rows", *rows])
        return f"made without the rows that lack runs ({error})"
    return "made"


def _run(table, words: list[str]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        importlib.import_module(f"occplug.cli.{table.command}").main([*words, NO_TRAINING])


def _baseline(table) -> str:
    from occplug.config import find_config
    from occplug.experiments.ablating import choose_table

    config = find_config(table.words[table.words.index("--config-file") + 1])
    return choose_table(config, [], table.words[table.words.index("--table") + 1]).baseline


def _without_rows(words: list[str]) -> list[str]:
    if "--rows" not in words:
        return words
    start = words.index("--rows")
    end = next((at for at in range(start + 1, len(words)) if words[at].startswith("--")), len(words))
    return words[:start] + words[end:]
