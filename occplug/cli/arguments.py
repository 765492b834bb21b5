"""The command-line options that commands share, torchreid's `scripts/main.py` flags among them."""

from __future__ import annotations

import argparse

from occplug.config import load_config
from occplug.errors import ConfigError

__all__ = ["config_parser", "parse_config"]


def config_parser(name: str, text: str) -> argparse.ArgumentParser:
    """A parser with the flags that choose and change a config."""
    parser = argparse.ArgumentParser(
        f"occplug {name}",
        description=text,
        epilog="Any config key may follow as KEY VALUE pairs, e.g. train.seed 3 data.save_dir log/seed3",
        allow_abbrev=False,
    )
    parser.add_argument("--config-file", required=True, metavar="F", help="a yaml file of configs/ or your own")
    parser.add_argument("--root", metavar="DIR", help="folder that holds the data sets (data.root)")
    parser.add_argument("-s", "--sources", nargs="+", metavar="SRC", help="training data sets (data.sources)")
    parser.add_argument("-t", "--targets", nargs="+", metavar="TGT", help="data sets to test on (data.targets)")
    parser.add_argument("--transforms", nargs="+", metavar="T", help="training transforms (data.transforms)")
    return parser


def parse_config(parser: argparse.ArgumentParser, argv: list[str]):
    """Parse `argv` -> (namespace, resolved config).

    Flags with several values swallow the KEY VALUE pairs that follow them; since a config key has a dot and a data
    set's or transform's name has none, everything from the first dotted word on goes back to the pairs.

    Raises:
        ConfigError: an unknown flag, or anything `load_config` objects to.
    """
    args, rest = parser.parse_known_args(argv)
    unknown = [word for word in rest if word.startswith("--")]
    if unknown:
        raise ConfigError(f"there is no option {unknown[0]}; see occplug {parser.prog.split()[-1]} --help")
    options: list[str] = []
    for flag, key in (("sources", "data.sources"), ("targets", "data.targets"), ("transforms", "data.transforms")):
        values = getattr(args, flag) or []
        cut = next((i for i, word in enumerate(values) if "." in word), len(values))
        rest = values[cut:] + rest
        if values[:cut]:
            options += [key, repr(values[:cut])]
    if args.root is not None:
        options += ["data.root", args.root]
    return args, load_config(args.config_file, options + rest)
