"""`occplug zoo`: what is in the model zoo, its weights, its table, and whether its figures still come out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from occplug.cli.arguments import parse_options
from occplug.errors import ConfigError
from occplug.utils.files import user_path, write_atomically

if TYPE_CHECKING:
    from occplug.zoo import Index

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and do what it says."""
    parser = argparse.ArgumentParser("occplug zoo", description="The model zoo.", allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (function, text, arguments) in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        for words, options in arguments:
            action.add_argument(*words, **options)
        action.add_argument("--index", type=user_path, metavar="FILE", help="another index.yaml")
        action.set_defaults(function=function)
    args, options = parse_options(parser, argv)
    if options and args.action not in ("verify", "export"):
        raise ConfigError(f"occplug zoo {args.action} takes no config keys, but got: {' '.join(options)}")

    from occplug.runs.session import start_logging
    from occplug.zoo import read_index

    start_logging()
    args.options = options
    args.function(args, read_index(args.index) if args.index else read_index())


def _list(args, index: Index) -> None:
    from occplug.zoo.listing import list_entries

    print(list_entries(index, args.text))


def _show(args, index: Index) -> None:
    from occplug.zoo.listing import describe_entry

    print(describe_entry(index, index.find(args.name)))


def _download(args, index: Index) -> None:
    from occplug.zoo.fetching import fetch

    for name in args.names:
        print(fetch(index, index.find(name)))


def _table(args, index: Index) -> None:
    """Write model_zoo.md, and the short table of the README."""
    from occplug.experiments.markdown import replace_marked
    from occplug.zoo.table import markdown, overview

    write_atomically(args.output, lambda temporary: temporary.write_text(markdown(index), encoding="utf-8"))
    print(f"{args.output}: {len(index.entries)} entries")
    if args.readme:
        replace_marked(args.readme, "methods", overview(index))
        print(f"{args.readme}: {len(index.overview)} methods")


def _combinations(args, index: Index) -> None:
    """Put the table of methods and backbones into docs/backbones.md."""
    from occplug.experiments.markdown import replace_marked
    from occplug.zoo.combinations import ROWS, combinations

    replace_marked(args.output, "combinations", combinations())
    print(f"{args.output}: {len(ROWS)} rows")


def _add(args, index: Index) -> None:
    from occplug.zoo.adding import add_entries

    print("\n".join(add_entries(index, args.config_file, args.name)))


def _export(args, index: Index) -> None:
    from occplug.runs.publishing import export_runs

    options = None if args.unchecked else args.options
    lines = export_runs(index, args.name, args.runs, args.trained_by, not args.no_weights, args.seed, options)
    print("\n".join(lines))


def _verify(args, index: Index) -> None:
    from occplug.runs.replaying import Replay, verify_entries

    count = verify_entries(index, args.names, Replay(args.save_dir, args.train, args.options), print)
    print(f"\n{count} entries give their figures")


_NAME = (("name",), {"metavar": "NAME", "help": "method/variant/data, zoo:// allowed"})
_NAMES = (("names",), {"metavar": "NAME", "nargs": "+", "help": "method/variant/data, zoo:// allowed"})
_ROOT = (("--root",), {"metavar": "DIR", "help": "folder that holds the data sets (data.root)"})
ACTIONS: dict[str, tuple] = {
    "list": (
        _list,
        "print the entries",
        [(("text",), {"nargs": "?", "default": "", "metavar": "TEXT", "help": "only names that hold TEXT"})],
    ),
    "show": (_show, "print one entry", [_NAME]),
    "download": (_download, "fetch and check weights", [_NAMES]),
    "verify": (
        _verify,
        "replay the evaluation of entries and say what a difference is due to",
        [
            (("names",), {"metavar": "NAME", "nargs": "*", "help": "entries; none: all with weights in the package"}),
            _ROOT,
            (
                ("--train",),
                {"action": "store_true", "help": "train again (one seed) in place of evaluating the weights"},
            ),
            (("--save-dir",), {"default": "log/verify", "metavar": "DIR", "help": "log/verify"}),
        ],
    ),
    "table": (
        _table,
        "write model_zoo.md",
        [
            (
                ("--output",),
                {"type": user_path, "default": Path("model_zoo.md"), "metavar": "FILE"},
            ),
            (("--readme",), {"type": user_path, "metavar": "FILE", "help": "also put the short table into FILE"}),
        ],
    ),
    "combinations": (
        _combinations,
        "write which method runs on which backbone",
        [(("--output",), {"type": user_path, "default": Path("docs/backbones.md"), "metavar": "FILE"})],
    ),
    "add": (
        _add,
        "add entries for config files, or take over what their headers say now",
        [
            (("--config-file",), {"type": Path, "nargs": "+", "required": True, "metavar": "F"}),
            (("--name",), {"metavar": "NAME", "help": "of a single entry; by default made from the config"}),
        ],
    ),
    "export": (
        _export,
        "fill an entry from finished runs: figures of every seed, and a small checkpoint of one",
        [
            _NAME,
            (
                ("--runs",),
                {"type": Path, "nargs": "+", "required": True, "metavar": "DIR", "help": "one folder a seed"},
            ),
            (("--trained-by",), {"default": "", "metavar": "COMMAND", "help": "the command that trained them"}),
            (("--seed",), {"type": int, "metavar": "K", "help": "whose weights to keep (the lowest)"}),
            (("--no-weights",), {"action": "store_true", "help": "figures alone; an older file of ours is removed"}),
            (("--unchecked",), {"action": "store_true", "help": "do not evaluate the small file before it is kept"}),
            _ROOT,
        ],
    ),
}
