"""`occplug compare`: several configs over several seeds, one table and one page, and a page of every query.

Each run is an ordinary training run in `log/NAME/<config>/seed<k>`. A run that is complete is read, also one of an
equal config anywhere below `log`; one that was interrupted is resumed. So the command can be given again at any time.
`--keep` is that of `occplug ablate`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from occplug.cli.arguments import add_table_options, parse_options, table_command
from occplug.errors import ConfigError
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, run and print."""
    args, options = parse_options(_parser(), argv)
    if (args.configs is None) == (args.runs is None):
        raise ConfigError("give either --configs, to be trained, or --runs, which are finished")
    if args.runs and (options or args.histogram or args.keep or args.seeds != 1 or args.jobs != 1):
        raise ConfigError("finished runs are compared as they are: leave out what belongs to training them")

    from occplug.experiments.comparing import compare, compare_runs
    from occplug.experiments.drawing import draw_report
    from occplug.experiments.markdown import check_marks
    from occplug.reports.page import leave_comparison

    mark = f"compare {args.name}"
    if args.readme is not None:
        check_marks(args.readme, mark)  # before anything is trained
    folder, command = Path("log") / args.name, table_command("python tools/compare.py", argv)
    if args.runs:
        report = compare_runs(args.runs, folder, args.titles, args.baseline, command)
    else:
        report = compare(
            args.configs,
            options,
            folder,
            args.seeds,
            args.jobs,
            args.baseline,
            args.histogram,
            args.keep,
            command,
            not args.no_training,
        )
    print(f"\n{report.markdown()}")
    figure = None if args.figure is None else draw_report(report, args.figure)
    page = report.write(args.readme, mark, figure)
    print(f"\nreport: {page}")
    leave_comparison(report.folders(), page.with_name("queries.html"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "occplug compare",
        description="Train several configs over several seeds, print one table; or put finished runs into one.",
        allow_abbrev=False,
    )
    parser.add_argument("--configs", nargs="+", metavar="F", help="yaml files, one row each")
    text = "in place of --configs: folders of finished runs, or FOLDER with FOLDER/seed<k>; one row each"
    parser.add_argument("--runs", nargs="+", type=user_path, metavar="RUN", help=text)
    parser.add_argument("--titles", nargs="+", metavar="T", help="of --runs: one a row; default: their folders' names")
    parser.add_argument("--name", default="compare", help="runs go to log/NAME")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 1..N of each config")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time")
    parser.add_argument("--baseline", metavar="ROW", help="the others are tested against this config (its bare name)")
    parser.add_argument("--root", default=None, metavar="DIR", help="folder that holds the data sets")
    parser.add_argument("--histogram", action="store_true", help="add a colour histogram, which learns nothing")
    add_table_options(parser)
    parser.add_argument(
        "--readme", metavar="FILE", type=user_path, help="replace the table between this command's marks in FILE"
    )
    return parser
