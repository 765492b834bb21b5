"""Making mask files for images, so that an interrupted run goes on where it stopped; and a picture to judge them by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from occplug.masks.confidences import Person, confidence_maps
from occplug.masks.files import read_mask_file
from occplug.masks.labels import group_channels, part_labels, places, sample_maps
from occplug.utils.body_parts import SCHEMES
from occplug.utils.files import write_atomically
from occplug.utils.imagefile import read_image

__all__ = ["Job", "make_masks", "write_sheet"]

Predictor = Callable[[Sequence[Tensor]], list[Person | None]]
_COLOURS = [(230, 60, 60), (60, 160, 230), (90, 200, 90), (240, 190, 40), (170, 90, 210), (60, 210, 200)]
_COLOURS += [(240, 130, 30), (240, 130, 190)]
_TILE = (256, 128)  # height and width of a picture on the sheet


class Job(NamedTuple):
    """An image file and the mask file to be made of it."""

    image: Path
    mask: Path


def make_masks(
    jobs: Sequence[Job],
    predictor: Predictor,
    size: tuple[int, int] = (32, 16),
    batch_size: int = 4,
    progress: Callable[[Iterable], Iterable] = iter,
) -> int:
    """Write the missing masks of `jobs`, float32 [36, h, w]; returns in how many images no person was detected.

    Each file is whole or not there, and those that are there are left alone.

    Args:
        predictor: images (float [3, H, W] in [0, 1]) -> the person in each, or None.
        size: (h, w) of the maps.   batch_size: images given to the predictor at once.
        progress: wraps the list of batches.

    Raises:
        DataError: an image cannot be read.
        TrainingError: a mask cannot be written.
    """
    waiting = [job for job in jobs if not job.mask.exists()]
    batches = [waiting[start : start + batch_size] for start in range(0, len(waiting), batch_size)]
    empty = 0
    for batch in progress(batches):
        pictures = [pil_to_tensor(read_image(job.image)) / 255 for job in batch]
        for job, person in zip(batch, predictor(pictures), strict=True):
            _save(job.mask, confidence_maps(person, size))
            empty += person is None
    return empty


def _save(file: Path, maps: np.ndarray) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:  # numpy would add an ending to a name
            np.save(stream, maps, allow_pickle=False)

    write_atomically(file, write)


def write_sheet(file: Path, jobs: Sequence[Job], scheme: str, count: int = 24, columns: int = 8) -> None:
    """A PNG of up to `count` images, evenly spaced in `jobs`, beside their part labels in colour.

    Raises:
        DataError: an image or mask cannot be read.
        OutputError: `file` cannot be written.
    """
    shown = [jobs[i] for i in np.unique(np.linspace(0, len(jobs) - 1, min(count, len(jobs))).astype(int))]
    height, width = _TILE
    rows, legend = -(-len(shown) // columns), 16 * len(SCHEMES[scheme]) + 8
    sheet = Image.new("RGB", (columns * (2 * width + 8), rows * (height + 8) + legend), "white")
    for number, job in enumerate(shown):
        row, column = divmod(number, columns)
        picture = read_image(job.image).resize((width, height))
        corner = (column * (2 * width + 8), row * (height + 8))
        sheet.paste(picture, corner)
        sheet.paste(_coloured(picture, read_mask_file(job.mask), scheme), (corner[0] + width, corner[1]))
    draw = ImageDraw.Draw(sheet)
    for number, part in enumerate(SCHEMES[scheme]):
        top = rows * (height + 8) + 16 * number + 4
        draw.rectangle((4, top, 16, top + 12), fill=_COLOURS[number])
        draw.text((22, top), part, fill="black")
    write_atomically(file, lambda temporary: sheet.save(temporary, "PNG"))


def _coloured(picture: Image.Image, maps: Tensor, scheme: str) -> Image.Image:
    """`picture` tinted with the colour of the strongest part; grey where that is the background."""
    height, width = _TILE
    values = sample_maps(maps, places(height, width)[0].as_subclass(Tensor), height, width, "bicubic")
    strongest = part_labels(group_channels(values, list(SCHEMES[scheme].values()))).argmax(dim=0).numpy()  # [H, W]
    colours = np.array([(255, 255, 255), *_COLOURS], np.float32)[strongest]
    grey = np.asarray(picture.convert("L"), np.float32)[..., None]
    tinted = np.where(strongest[..., None] > 0, 0.5 * grey + 0.5 * colours, 0.6 * grey)
    return Image.fromarray(tinted.astype(np.uint8))
