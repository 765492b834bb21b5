"""`occplug show-augment`: a contact sheet of augmentations, each beside the original."""

from __future__ import annotations

import argparse
from pathlib import Path

from occplug import _moved
from occplug.cli.arguments import parse_config
from occplug.errors import ConfigError
from occplug.utils.files import user_path, write_atomically

__all__ = ["main"]

__getattr__ = _moved.older_names(__name__)

NAMES = ["random_erase_pixel", "oamn", "oia", "rwoa"]


def main(argv: list[str]) -> None:
    """Parse `argv` and write the sheet."""
    parser = argparse.ArgumentParser(
        "occplug show-augment",
        description="Draw augmented images beside their originals; every augmentation acts on every image.",
        epilog="With --config-file, config keys may follow as KEY VALUE pairs, e.g. augment.rwoa.library DIR",
        allow_abbrev=False,
    )
    parser.add_argument("--config-file", metavar="F", help="training images, size and options of this config")
    parser.add_argument(
        "--images", type=user_path, metavar="DIR", help="images of this folder, at 256x128, default options"
    )
    parser.add_argument("--root", metavar="DIR", help="folder that holds the data sets (data.root)")
    parser.add_argument("--names", nargs="+", metavar="T", help=f"transforms; default: {' '.join(NAMES)}")
    parser.add_argument("--output", type=user_path, default=Path("augment.png"), metavar="PNG")
    parser.add_argument("--count", type=int, default=12, metavar="N", help="images, evenly spaced in the set")
    parser.add_argument("--draws", type=int, default=2, metavar="N", help="results of each augmentation per image")
    parser.add_argument("--seed", type=int, default=1)
    args, options = parser.parse_known_args(argv)
    if (args.config_file is None) == (args.images is None):
        raise ConfigError("give either --config-file, for a config's training images, or --images, a folder")
    if args.output.suffix.lower() != ".png" or min(args.count, args.draws, args.seed + 1) < 1:
        raise ConfigError("--output must end in .png, --count and --draws must be at least 1, and --seed at least 0")
    names, options = _names_and_pairs(args.names or NAMES, options)

    from occplug.reports.augmentation import augmentation_sheet, pictures_of_config, pictures_of_folder
    from occplug.runs.session import start_logging

    if options and not args.config_file:
        raise ConfigError(f"there is no option {options[0]}; see occplug show-augment --help")
    start_logging()
    pictures = pictures_of_config(_config(args, options)) if args.config_file else pictures_of_folder(args.images)
    sheet = augmentation_sheet(pictures, names, args.count, args.draws, args.seed)
    write_atomically(args.output, lambda temporary: sheet.save(temporary, format="png"))
    print(f"{args.output}: {sheet.width} x {sheet.height} pixels, {', '.join(names)}")


def _names_and_pairs(names: list[str], rest: list[str]) -> tuple[list[str], list[str]]:
    """`--names` swallows the KEY VALUE pairs that follow it; a key has a dot, and a name has none."""
    at = next((i for i, word in enumerate(names) if "." in word), len(names))
    return names[:at], names[at:] + rest


def _config(args, options: list[str]):
    parser = argparse.ArgumentParser("occplug show-augment", allow_abbrev=False)
    for name in ("config-file", "root", "sources", "targets", "transforms"):
        parser.add_argument(f"--{name}")
    root = ["--root", args.root] if args.root else []
    return parse_config(parser, ["--config-file", args.config_file, *root, *options])[1]
