"""`occplug keep`: collect kept runs of folders and files in one file, for `--keep FILE` of the table commands."""

from __future__ import annotations

import argparse

from occplug.errors import ConfigError
from occplug.experiments.keptfile import SUFFIX, add_runs, as_folder, is_file_of_runs
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and add the runs that are not there yet."""
    parser = argparse.ArgumentParser(
        "occplug keep", description="Add kept runs of folders and files to one file.", allow_abbrev=False
    )
    parser.add_argument("sources", nargs="+", type=user_path, metavar="DIR|FILE", help="what --keep wrote elsewhere")
    parser.add_argument("--to", required=True, type=user_path, metavar="FILE", help=f"its name ends in {SUFFIX}")
    args = parser.parse_args(argv)
    if not is_file_of_runs(args.to):
        raise ConfigError(f"--to is {args.to}, expected a file whose name ends in {SUFFIX}")
    for source in args.sources:
        if not source.exists():
            raise ConfigError(f"{source}: there is no such folder or file of kept runs")
        with as_folder(source) as folder:
            added = add_runs(args.to, folder)
        print(f"{source}: {len(added)} runs added to {args.to}")
