"""`occplug benchmark`: speed and memory against the alternative, measured in the same run."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable
from pathlib import Path

from benchmarks import BENCHMARKS, machine, table
from occplug.errors import ConfigError
from occplug.experiments.markdown import check_marks, replace_marked
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, measure and print one table per benchmark."""
    parser = argparse.ArgumentParser("occplug benchmark", description="Speed and memory, as ratios to the alternative.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; default: all")
    text = "also put each table between the marks `benchmark NAME` in FILE; without NAMEs all that FILE has"
    parser.add_argument("--page", metavar="FILE", type=user_path, help=text)
    parser.add_argument("--quick", action="store_true", help="smaller inputs: all in about a minute")
    args = parser.parse_args(argv)
    for name in args.names:
        _check(name)
        if args.page:
            check_marks(args.page, f"benchmark {name}")
    print(machine(), flush=True)
    for name in args.names or (marked_names(args.page, BENCHMARKS) if args.page else BENCHMARKS):
        text = table(BENCHMARKS[name](args.quick))
        print(f"\n{text}", flush=True)
        if args.page:
            replace_marked(args.page, f"benchmark {name}", f"{machine()}\n\n{text}")


def marked_names(page: Path, names: Iterable[str]) -> list[str]:
    """Those of `names` whose tables have a place in `page`."""
    text = page.read_text() if page.exists() else ""
    return [name for name in names if f"<!-- benchmark {name} -->" in text]


def _check(name: str) -> None:
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"no benchmark is called {name!r}{hint}; there are: {', '.join(BENCHMARKS)}")
