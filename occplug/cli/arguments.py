"""The command-line options that commands share, torchreid's `scripts/main.py` flags among them."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from occplug.errors import ConfigError
from occplug.utils.files import user_path

__all__ = [
    "NO_TRAINING",
    "WEIGHTS",
    "add_table_options",
    "at_least",
    "check_titles",
    "config_parser",
    "parse_config",
    "parse_options",
    "table_command",
]


WEIGHTS = "a run's folder, a checkpoint, an exported file, zoo://NAME or hf://USER/REPO"
NO_TRAINING = "--no-training"
HELD = "; by default that of --weights, needed only where they do not hold theirs (converted files)"


def at_least(least: int) -> Callable[[str], int]:
    """The `type` of a flag that takes a whole number of at least `least`: any other ends the parser with status 2."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is too small, it must be at least {least}")
        return value

    return parse


def config_parser(
    name: str, text: str, several: bool = False, weights: bool = False, untrained: str = ""
) -> argparse.ArgumentParser:
    """A parser with the flags that choose and change a config.

    Args:
        several: `--config-file` may be given several times or not at all.
        weights: `--weights` are taken, too, and `--config-file` may be left out.
        untrained: what the command looks at without weights; empty: they are needed.
    """
    parser = argparse.ArgumentParser(
        f"occplug {name}",
        description=text,
        epilog="Any config key may follow as KEY VALUE pairs, e.g. train.seed 3 data.save_dir log/seed3",
        allow_abbrev=False,
    )
    given = {"action": "append", "default": []} if several else {"required": not weights}
    text = "a yaml file of configs/ or your own" + (HELD if weights else "")
    parser.add_argument("--config-file", metavar="F", help=text, **given)
    if weights:
        text = f"{WEIGHTS}; default: {untrained}" if untrained else WEIGHTS
        parser.add_argument("--weights", required=not untrained, metavar="W", help=text)
    parser.add_argument("--root", metavar="DIR", help="folder that holds the data sets (data.root)")
    text = "training data sets (data.sources): names, folder:DIR, csv:FILE or coco:FILE"
    parser.add_argument("-s", "--sources", nargs="+", metavar="SRC", help=text)
    text = "data sets to test on (data.targets), as --sources"
    parser.add_argument("-t", "--targets", nargs="+", metavar="TGT", help=text)
    text = r"finds pid, camid, split in paths of folder:DIR, e.g. '(?P<pid>\w+)-cam(?P<camid>\d+)' (data.pattern)"
    parser.add_argument("--pattern", metavar="REGEX", help=text)
    parser.add_argument("--transforms", nargs="+", metavar="T", help="training transforms (data.transforms)")
    return parser


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """`--keep`, `--figure` and `--no-training` of the commands that make tables."""
    text = (
        "keep configs and figures of all runs in a folder, or in a file FILE.jsonl, and take those that are there in "
    )
    parser.add_argument("--keep", type=user_path, metavar="DIR|FILE", help=text + "place of a training")
    text = "also draw the table, with intervals (.svg, .pdf or .png); --readme shows the picture above it"
    parser.add_argument("--figure", type=user_path, metavar="FILE", help=text)
    text = "train nothing: runs that are neither kept nor complete are an error that names them"
    parser.add_argument(NO_TRAINING, action="store_true", help=text)


def table_command(start: str, argv: list[str]) -> str:
    """What stands below a table as the command that makes it; whether its runs were there is no part of it."""
    return " ".join([start, *(word for word in argv if word != NO_TRAINING)])


def parse_config(parser: argparse.ArgumentParser, argv: list[str]):
    """Parse `argv` -> (namespace, resolved config); without `--config-file` it is the one that `--weights` hold, and
    `args.config_file` names them.

    Raises:
        ConfigError: an unknown flag, neither a config nor weights, or anything `load_config` objects to.
        CheckpointError: weights that are not there or cannot be read.
    """
    args, options = parse_options(parser, argv)
    if args.config_file is not None:
        from occplug.config import load_config

        return args, load_config(args.config_file, options)
    if getattr(args, "weights", None) is None:
        raise ConfigError("which model? give --config-file, or --weights, which hold their config")
    from occplug.runs.candidates import candidates

    args.config_file = args.weights
    return args, candidates([], [args.weights], options)[0].cfg


def parse_options(parser: argparse.ArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, list]:
    """Parse `argv` -> (namespace, config options: the flags that stand for keys, then the KEY VALUE pairs).

    Flags with several values would swallow the KEY VALUE pairs that follow them; since a config key has a dot (or is
    `use_gpu`) and a data set's, transform's, table row's or zoo entry's name has none, unless a path follows its colon,
    a flag's values end before the first such word. Pairs keep their order: of a key given twice the last one counts.

    Raises:
        ConfigError: an unknown flag.
    """
    if _PAIRS not in parser._option_string_actions:  # a parser may be used twice
        parser.add_argument(_PAIRS, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    args, pairs = parser.parse_known_args(_separated(argv))
    unknown = [word for word in pairs if word.startswith("--")]
    if unknown:
        raise ConfigError(f"there is no option {unknown[0]}; see occplug {parser.prog.split()[-1]} --help")
    names = getattr(args, "names", None) or []  # of zoo entries, which have no flag before them
    at = next((place for place, word in enumerate(names) if _is_key(word)), len(names))
    if at < len(names):
        args.names, pairs = names[:at], names[at:] + pairs
    options: list = []  # lists as they are: a name need not be text that yaml could quote
    for flag in ("sources", "targets", "transforms"):
        if getattr(args, flag, None):
            options += [f"data.{flag}", getattr(args, flag)]
    for flag in ("root", "pattern"):
        if getattr(args, flag, None) is not None:
            options += [f"data.{flag}", getattr(args, flag)]
    return args, options + pairs


def check_titles(args) -> None:
    """Raise ConfigError if `--titles` are not one for each of `--weights`."""
    if args.titles and len(args.titles) != len(args.weights):
        raise ConfigError(f"--titles has {len(args.titles)} titles for {len(args.weights)} models; give one each")


_PAIRS = "--end-of-names"
_SEVERAL = ("-s", "--sources", "-t", "--targets", "--transforms", "--rows")


def _separated(argv: list[str]) -> list[str]:
    """`argv` with a word before the first pair that follows the values of a flag."""
    words: list[str] = []
    takes_names = False
    for word in argv:
        if word.startswith("-"):
            takes_names = word in _SEVERAL
        elif takes_names and _is_key(word):
            words.append(_PAIRS)
            takes_names = False
        words.append(word)
    return words


def _is_key(word: str) -> bool:
    """Whether `word` can be a config key, not a name or a path such as folder:crops.v2."""
    is_file = word.endswith((".csv", ".json"))  # no key does; a message says how files are named
    return word == "use_gpu" or ("." in word.partition(":")[0] and not is_file)
