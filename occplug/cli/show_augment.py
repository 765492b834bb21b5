"""`occplug show-augment`: a contact sheet of augmentations, each beside the original."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from occplug.cli.arguments import parse_config
from occplug.errors import ConfigError, DataError
from occplug.registry import TRANSFORMS, get
from occplug.runs.session import start_logging
from occplug.transforms import build_pipeline
from occplug.utils.files import user_path
from occplug.utils.imagefile import read_image

__all__ = ["main", "sheet"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
NAMES = ["random_erase_pixel", "oamn", "oia", "rwoa"]
GAP, LABEL = 4, 16  # pixels
MEAN = STD = (0.5, 0.5, 0.5)


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
    start_logging()
    if args.config_file:
        items, read, size, augment = _of_config(args, options)
    elif options:
        raise ConfigError(f"there is no option {options[0]}; see occplug show-augment --help")
    else:
        items, read, size, augment = _of_folder(args.images), read_image, (256, 128), {}
    picture = sheet(items, read, names, size, augment, args.count, args.draws, args.seed)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    picture.save(args.output)
    print(f"{args.output}: {picture.width} x {picture.height} pixels, {', '.join(names)}")


def _names_and_pairs(names: list[str], rest: list[str]) -> tuple[list[str], list[str]]:
    """`--names` swallows the KEY VALUE pairs that follow it; a key has a dot, and a name has none."""
    at = next((i for i, word in enumerate(names) if "." in word), len(names))
    return names[:at], names[at:] + rest


def _of_config(args, options: list[str]):
    from occplug.data.manager import DataManager

    parser = argparse.ArgumentParser("occplug show-augment", allow_abbrev=False)
    for name in ("config-file", "root", "sources", "targets", "transforms"):
        parser.add_argument(f"--{name}")
    root = ["--root", args.root] if args.root else []
    _, cfg = parse_config(parser, ["--config-file", args.config_file, *root, *options])
    data = DataManager(cfg)
    augment = {name: dict(node) for name, node in cfg.augment.items()}
    return data.train_items, data._read, (cfg.data.height, cfg.data.width), augment


def _of_folder(folder: Path) -> list[tuple[str]]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder}: there is no image in the folder ({', '.join(SUFFIXES)})")
    return [(str(file),) for file in files]


def sheet(
    items: list,
    read: Callable,
    names: list[str],
    size: tuple[int, int],
    augment: dict,
    count: int,
    draws: int,
    seed: int,
) -> Image.Image:
    """A row for each of `count` images of `items`: the original, then `draws` results of each augmentation.

    Args:
        items: rows (path, ...).   read: path -> RGB picture.
        names: of transforms; their probability is set to 1.
        size: (height, width) of each picture, in pixels.
        augment: name -> options.
        seed: with the image's and the column's number it decides the draws.
    """
    columns = [("original", build_pipeline([], *size, MEAN, STD))]
    for name in names:
        options = {
            **augment.get(name, {}),
            **({"prob": 1.0} if "prob" in getattr(get(TRANSFORMS, name), "defaults", {}) else {}),
        }
        pipeline = build_pipeline([name], *size, MEAN, STD, {name: options})
        pipeline.bind(items, read)
        columns += [(name if draw == 0 else "", pipeline) for draw in range(draws)]
    height, width = size
    chosen = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    result = Image.new("RGB", (len(columns) * (width + GAP) + GAP, LABEL + len(chosen) * (height + GAP) + GAP), "white")
    drawing, font = ImageDraw.Draw(result), ImageFont.load_default(11)
    for column, (label, pipeline) in enumerate(columns):
        left = GAP + column * (width + GAP)
        drawing.text((left, 2), label, "black", font)
        for row, index in enumerate(chosen):
            draw_seed = int(np.random.SeedSequence([seed, int(index), column]).generate_state(1)[0])
            torch.manual_seed(draw_seed)
            random.seed(draw_seed)
            pixels = pipeline(read(items[index][0])).mul(127.5).add(127.5).round().clamp(0, 255).byte()
            result.paste(Image.fromarray(pixels.permute(1, 2, 0).numpy()), (left, LABEL + row * (height + GAP)))
    return result
