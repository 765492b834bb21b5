"""A contact sheet of augmentations, each beside the original."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from occplug.data.manager import DataManager
from occplug.errors import DataError
from occplug.registry import TRANSFORMS, get
from occplug.transforms import build_pipeline
from occplug.utils.imagefile import read_image

__all__ = ["Pictures", "augmentation_sheet", "pictures_of_config", "pictures_of_folder"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
GAP, LABEL = 4, 16  # pixels
MEAN = STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Pictures:
    """What is augmented.

    Args:
        items: rows (path, ...).
        read: path -> RGB picture.
        size: (height, width) of each picture on the sheet, in pixels.
        augment: transform -> its options.
    """

    items: list
    read: Callable
    size: tuple[int, int] = (256, 128)
    augment: dict[str, dict] = field(default_factory=dict)


def pictures_of_config(cfg) -> Pictures:
    """The training images of a config, with its size and its transforms' options."""
    data = DataManager(cfg)
    augment = {name: dict(node) for name, node in cfg.augment.items()}
    return Pictures(data.train_items, data._read, (cfg.data.height, cfg.data.width), augment)


def pictures_of_folder(folder: Path) -> Pictures:
    """The images in `folder` and below, with the transforms' default options.

    Raises:
        DataError: there is none.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder}: there is no image in the folder ({', '.join(SUFFIXES)})")
    return Pictures([(str(file),) for file in files], read_image)


def augmentation_sheet(pictures: Pictures, names: list[str], count: int, draws: int, seed: int) -> Image.Image:
    """A row for each of `count` images, evenly spaced: the original, then `draws` results of each augmentation.

    Args:
        names: of transforms; their probability is set to 1.
        seed: with the image's and the column's number it decides the draws.
    """
    columns = [("original", build_pipeline([], *pictures.size, MEAN, STD))]
    for name in names:
        certain = {"prob": 1.0} if "prob" in getattr(get(TRANSFORMS, name), "defaults", {}) else {}
        options = {**pictures.augment.get(name, {}), **certain}
        pipeline = build_pipeline([name], *pictures.size, MEAN, STD, {name: options})
        pipeline.bind(pictures.items, pictures.read)
        columns += [(name if draw == 0 else "", pipeline) for draw in range(draws)]
    (height, width), items = pictures.size, pictures.items
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
            pixels = pipeline(pictures.read(items[index][0])).mul(127.5).add(127.5).round().clamp(0, 255).byte()
            result.paste(Image.fromarray(pixels.permute(1, 2, 0).numpy()), (left, LABEL + row * (height + GAP)))
    return result
