"""`occplug keep`: collect kept runs of folders and files in one file, for `--keep FILE` of the table commands."""

from __future__ import annotations

import argparse

from occplug.errors import ConfigError
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and add the runs that are not there yet."""
    parser = argparse.ArgumentParser(
        "occplug keep", description="Add kept runs of folders and files to one file.", allow_abbrev=False
    )
    parser.add_argument("sources", nargs="+", type=user_path, metavar="DIR|FILE", help="what --keep wrote elsewhere")
    parser.add_argument("--to", required=True, type=user_path, metavar="FILE", help="its name ends in .jsonl")
    text = (
        "of runs in FILE that do not say with which weights and occluders of the package they were made, write that it "
    )
    parser.add_argument("--same-weights", action="store_true", help=text + "was those of this version")
    args = parser.parse_args(argv)

    from occplug.experiments.keptfile import SUFFIX, add_runs, as_folder, is_file_of_runs, say_embedded

    if not is_file_of_runs(args.to):
        raise ConfigError(f"--to is {args.to}, expected a file whose name ends in {SUFFIX}")
    for source in args.sources:
        if not source.exists():
            raise ConfigError(f"{source}: there is no such folder or file of kept runs")
        with as_folder(source) as folder:
            added = add_runs(args.to, folder)
        print(f"{source}: {len(added)} runs added to {args.to}")
    if args.same_weights:
        print(f"{args.to}: {say_embedded(args.to, _embedded_in)} runs now say what they were made with")


def _embedded_in(config: str) -> dict[str, str] | None:
    """The package's files for a run of that `config`; None if this version does not read it."""
    from occplug.config import load_config
    from occplug.runs.record import embedded

    try:
        return embedded(load_config(text=config))
    except ConfigError:
        return None
