"""The command-line options that commands share, torchreid's `scripts/main.py` flags among them."""

from __future__ import annotations

import argparse

from occplug.config import load_config
from occplug.errors import ConfigError

__all__ = ["config_parser", "parse_config", "parse_options"]


def config_parser(name: str, text: str, several: bool = False) -> argparse.ArgumentParser:
    """A parser with the flags that choose and change a config; `several` times or not at all, if so said."""
    parser = argparse.ArgumentParser(
        f"occplug {name}",
        description=text,
        epilog="Any config key may follow as KEY VALUE pairs, e.g. train.seed 3 data.save_dir log/seed3",
        allow_abbrev=False,
    )
    given = {"action": "append", "default": []} if several else {"required": True}
    parser.add_argument("--config-file", metavar="F", help="a yaml file of configs/ or your own", **given)
    parser.add_argument("--root", metavar="DIR", help="folder that holds the data sets (data.root)")
    text = "training data sets (data.sources): names, folder:DIR or csv:FILE"
    parser.add_argument("-s", "--sources", nargs="+", metavar="SRC", help=text)
    text = "data sets to test on (data.targets), as --sources"
    parser.add_argument("-t", "--targets", nargs="+", metavar="TGT", help=text)
    text = r"finds pid, camid, split in paths of folder:DIR, e.g. '(?P<pid>\w+)-cam(?P<camid>\d+)' (data.pattern)"
    parser.add_argument("--pattern", metavar="REGEX", help=text)
    parser.add_argument("--transforms", nargs="+", metavar="T", help="training transforms (data.transforms)")
    return parser


def parse_config(parser: argparse.ArgumentParser, argv: list[str]):
    """Parse `argv` -> (namespace, resolved config).

    Raises:
        ConfigError: an unknown flag, or anything `load_config` objects to.
    """
    args, options = parse_options(parser, argv)
    return args, load_config(args.config_file, options)


def parse_options(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse `argv` -> (namespace, config options: the flags that stand for keys, then the KEY VALUE pairs).

    Flags with several values swallow the KEY VALUE pairs that follow them; since a config key has a dot (or is
    `use_gpu`) and a data set's, transform's, table row's or zoo entry's name has none, unless a path follows its colon,
    everything from the first such word on goes back to the pairs.

    Raises:
        ConfigError: an unknown flag.
    """
    args, pairs = parser.parse_known_args(argv)
    unknown = [word for word in pairs if word.startswith("--")]
    if unknown:
        raise ConfigError(f"there is no option {unknown[0]}; see occplug {parser.prog.split()[-1]} --help")
    for flag in ("sources", "targets", "transforms", "rows", "names"):
        values = getattr(args, flag, None) or []
        cut = next((i for i, word in enumerate(values) if _is_key(word)), len(values))
        if cut < len(values):
            setattr(args, flag, values[:cut])
            pairs = values[cut:] + pairs
    options: list[str] = []
    for flag in ("sources", "targets", "transforms"):
        if getattr(args, flag, None):
            options += [f"data.{flag}", repr(getattr(args, flag))]
    for flag in ("root", "pattern"):
        if getattr(args, flag, None) is not None:
            options += [f"data.{flag}", getattr(args, flag)]
    return args, options + pairs


def _is_key(word: str) -> bool:
    """Whether `word` can be a config key, not a name or a path such as folder:crops.v2."""
    return word == "use_gpu" or "." in word.partition(":")[0]
