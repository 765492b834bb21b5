"""`occplug sweep`: a config with every combination of some keys' values, over several seeds, in one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from occplug.cli.arguments import add_table_options, parse_options, table_command
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, run and print."""
    parser = argparse.ArgumentParser(
        "occplug sweep",
        description="Train a config with every combination of the values given, each over several seeds, and print one "
        "table. Runs that are complete are read, those that were interrupted go on.",
        epilog="Any config key may follow as KEY VALUE pairs, over all rows.",
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG", help="a yaml file of configs/ or your own")
    text = "a key and its values, e.g. train.lr=1e-4,3e-4"
    parser.add_argument("values", nargs="+", metavar="KEY=V1,V2", help=text)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 1..N of each row (3)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time (1)")
    parser.add_argument("--baseline", metavar="ROW", help="row the others are compared with, 'KEY=V KEY2=W'; the first")
    parser.add_argument("--root", metavar="DIR", help="folder that holds the data sets (data.root)")
    parser.add_argument("--save-dir", type=user_path, default=Path("log/sweep"), metavar="DIR", help="log/sweep")
    add_table_options(parser)
    args, options = parse_options(parser, argv)
    first = next((n for n, word in enumerate(args.values) if "=" not in word), len(args.values))
    options = [*args.values[first:], *options]  # pairs that follow the values at once

    from occplug.experiments.drawing import draw_report
    from occplug.experiments.sweeping import sweep
    from occplug.reports.page import leave_comparison

    words, command = args.values[:first], table_command("occplug sweep", argv)
    place = (args.save_dir, args.seeds, args.jobs, args.baseline, args.keep)
    report = sweep(args.config, words, options, *place, command, not args.no_training)
    print(f"\n{report.markdown()}")
    figure = None if args.figure is None else draw_report(report, args.figure)
    page = report.write(figure=figure)
    print(f"\nreport: {page}")
    leave_comparison(report.folders(), page.with_name("queries.html"))
