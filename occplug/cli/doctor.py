"""`occplug doctor`: what is installed, which data sets are there, and what is wrong with their images."""

from __future__ import annotations

import argparse
import json

from occplug.cli.arguments import at_least
from occplug.errors import DataError

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, look, print the report."""
    parser = argparse.ArgumentParser(
        "occplug doctor",
        description="Say what is installed, which data sets are there and how they differ from the published counts, "
        "and which images are damaged, alike across identities or across training and test, or strangely labelled. The "
        "report fits into an issue. Status 2 means that what was asked for cannot be read.",
    )
    text = "data sets: folder:DIR, csv:FILE, coco:FILE, or names below --root; by default all that are below it"
    parser.add_argument("sets", nargs="*", metavar="SET", help=text)
    parser.add_argument("--root", metavar="DIR", help="folder that holds the data sets")
    parser.add_argument("--pattern", default="", metavar="REGEX", help="as data.pattern, for folder:DIR")
    parser.add_argument("--no-images", dest="images", action="store_false", help="leave the images unread: seconds")
    parser.add_argument("--workers", type=at_least(0), default=2, metavar="N", help="threads that read images (2)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    text = "make Occluded-Duke in OUT from DukeMTMC-reID in DUKE, with the authors' train.list, query.list and "
    text += "gallery.list in LISTS"
    parser.add_argument("--build-occluded-duke", nargs=3, metavar=("DUKE", "LISTS", "OUT"), help=text)
    args = parser.parse_args(argv)

    from occplug.doctor import as_text, build_occluded_duke, report

    if args.build_occluded_duke:
        made = build_occluded_duke(*args.build_occluded_duke)
        print(f"{made} is made")
        args.sets, args.root = args.sets or ["occluded_duke"], args.root or args.build_occluded_duke[2]
    content = report(args.root, args.sets, args.images, args.workers, args.pattern)
    print(json.dumps(content, indent=2) if args.json else as_text(content))
    if content["unreadable"]:
        raise DataError("; ".join(f"{name} cannot be read" for name in content["unreadable"]) + "; the report says why")
