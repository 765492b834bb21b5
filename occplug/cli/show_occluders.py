"""`occplug show-occluders`: the sheet of an occluder library."""

from __future__ import annotations

import argparse
from pathlib import Path

from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and draw."""
    parser = argparse.ArgumentParser(
        "occplug show-occluders",
        description="Draw an occluder library: every category with some of its cut-outs.",
        allow_abbrev=False,
    )
    parser.add_argument("library", nargs="?", default="", metavar="DIR", help="default: the package's drawn cut-outs")
    parser.add_argument("--figure", type=user_path, default=Path("occluders.png"), metavar="FILE", help="occluders.png")
    parser.add_argument("--columns", type=int, default=6, metavar="N", help="cut-outs of each category (6)")
    parser.add_argument("--width", type=float, default=7.0, metavar="INCHES", help="of the figure (7)")
    parser.add_argument("--split", default="train", help="of the cut-outs (train)")
    parser.add_argument("--categories", default="", metavar="F", help="another category table (yaml)")
    args = parser.parse_args(argv)

    from occplug.occluders import read_library
    from occplug.reports.occluders import draw_library
    from occplug.runs.session import start_logging

    start_logging()
    library = read_library(args.library, args.split, args.categories)
    print(f"figure: {draw_library(library, args.figure, args.columns, args.width)}")
