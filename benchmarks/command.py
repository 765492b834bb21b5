"""`occplug benchmark`: speed and memory against the alternative, measured in the same run."""

from __future__ import annotations

import argparse
import difflib

from benchmarks import BENCHMARKS, machine, table
from occplug.errors import ConfigError
from occplug.experiments.markdown import check_marks, replace_marked
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, measure and print one table per benchmark."""
    parser = argparse.ArgumentParser("occplug benchmark", description="Speed and memory, as ratios to the alternative.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; default: all")
    parser.add_argument(
        "--readme", metavar="FILE", type=user_path, help="also put the tables between the marks in FILE"
    )
    parser.add_argument(
        "--page", metavar="FILE", type=user_path, help="also put each table between the marks `benchmark NAME` in FILE"
    )
    parser.add_argument("--quick", action="store_true", help="smaller inputs: all in about a minute")
    args = parser.parse_args(argv)
    for name in args.names:
        _check(name)
        if args.page:
            check_marks(args.page, f"benchmark {name}")
    parts = [machine()]
    print(parts[0], flush=True)
    for name in args.names or BENCHMARKS:
        parts.append(table(BENCHMARKS[name](args.quick)))
        print(f"\n{parts[-1]}", flush=True)
        if args.page:
            replace_marked(args.page, f"benchmark {name}", f"{machine()}\n\n{parts[-1]}")
    if args.readme:
        replace_marked(args.readme, "benchmark", "\n\n".join(parts))


def _check(name: str) -> None:
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(f"no benchmark is called {name!r}{hint}; there are: {', '.join(BENCHMARKS)}")
