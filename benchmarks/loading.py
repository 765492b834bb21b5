"""Images from file to batch, plain and occluded.

All sides of a table take turns in one process, several times, and of each image and batch the fastest turn counts:
ratios then hold on a machine that has other work, too.
"""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.comparison import Rows, torchreid
from occplug.utils import compiled
from occplug.utils.measuring import measured

__all__ = ["augment", "loading"]

Side = tuple[Callable, Callable]  # path -> image, images -> batch
TURNS = 9
BATCH = 64
SIDES = ("torchreid", "occplug", "cached")
SETS = {  # name -> heights and widths from, to; augmentations that torchreid has, too
    "128 x 64": ((128, 64), (129, 65), ("random_flip", "random_erase")),
    "128 x 64, with random_crop": ((128, 64), (129, 65), ("random_flip", "random_crop", "random_erase")),
    "about 260 x 110": ((230, 90), (290, 130), ("random_flip", "random_erase")),
}
AUGMENTATIONS = ("random_erase_pixel", "oamn", "oia", "rwoa")
PREPARED = ("oamn", "oia", "rwoa")  # measured without what they make ahead, too
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def loading(quick: bool) -> Rows:
    """Training images from file to normalised batch against torchreid's, with and without a cache, no workers."""
    count, rows = 64 if quick else 256, []
    for name, (least, most, transforms) in SETS.items():
        with tempfile.TemporaryDirectory() as folder:
            paths = write_images(Path(folder), count, least, most)
            spent, same = measured(_loading, paths, transforms).output
        for side, label in zip(SIDES, (torchreid(), "occplug", "occplug, data.cache memory")):
            each, ratio = spent[side] / count, spent["torchreid"] / spent[side]
            equal = "equal" if same else "NOT equal"
            rows.append([f"{name}: {label}", f"{1e3 * each:.3f}", f"{1 / each:,.0f}", f"x{ratio:.2f}", equal])
    heads = ("", "CPU ms an image", "images per CPU s", "of torchreid", "resized pixels")
    fast = [name for name in ("simplejpeg", "numba") if find_spec(name)]
    note = (
        "random_flip and random_erase; torchreid's random_crop enlarges half of the images by Pillow on all sides; "
        f"with {' and '.join(fast) or 'Pillow alone'}; resized pixels are compared before random transforms"
    )
    return Rows(f"loading: {count:,} JPEGs to batches of {BATCH} of 256x128", heads, rows, note)


def write_images(folder: Path, count: int, least: Sequence[int] = (230, 90), most: Sequence[int] = (290, 130)):
    """Paths of smooth random JPEGs of quality 90, whose heights and widths are from `least` to below `most`."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (32, 14, 3), dtype=np.uint8))
        height, width = (int(rng.integers(low, high)) for low, high in zip(least, most))
        paths.append(str(folder / f"{i}.jpg"))
        small.resize((width, height), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def _loading(paths: list[str], transforms: Sequence[str]) -> Callable:
    """Side -> seconds of all paths, and whether resized pixels are equal."""
    _start()
    sides = {"torchreid": _torchreids(transforms), "occplug": _ours(transforms), "cached": _ours(transforms, paths)}
    same = all(np.array_equal(_resized("torchreid", path), _resized("occplug", path)) for path in paths)
    return lambda: (fastest(sides, paths), same)


def _start() -> None:
    """What data managers and loaders of a data set's size do."""
    import cv2

    cv2.setNumThreads(1)
    compiled.start(compiled.WORTH)


def fastest(sides: dict[str, Side], paths: Sequence[str], turns: int = TURNS) -> dict[str, float]:
    """Processor seconds of each side for all `paths`: of each image and each batch the least over `turns` turns, which
    have the same draws."""
    spent: dict[str, list[list[float]]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            torch.manual_seed(0)
            random.seed(0)
            spent[name].append(_turn(side, paths))
    return {name: float(np.min(times, axis=0).sum()) for name, times in spent.items()}


def _turn(side: Side, paths: Sequence[str]) -> list[float]:
    per_image, per_batch = side
    times: list[float] = []
    for first in range(0, len(paths), BATCH):
        images = [_timed(times, per_image, path) for path in paths[first : first + BATCH]]
        _timed(times, per_batch, images)
    return times


def _timed(times: list[float], work: Callable, given):
    start = time.process_time()
    result = work(given)
    times.append(time.process_time() - start)
    return result


def _resized(whose: str, path: str) -> np.ndarray:
    """uint8 [256, 128, 3] of a picture as it enters the random transforms."""
    from occplug.transforms import Resize
    from occplug.utils.imagefile import read_pixels

    if whose == "occplug":
        return np.asarray(Resize(256, 128).resized(read_pixels(path)))
    from torchvision.transforms import Resize as Theirs

    from occplug import torchreid_host as bridge

    return np.asarray(Theirs((256, 128))(bridge.sub("utils.tools").read_image(path)))


def _ours(transforms: Sequence[str], cached: Sequence[str] = ()) -> Side:
    """Pictures at the paths `cached` come from memory."""
    from occplug.data.cache import cached_pictures
    from occplug.transforms import build_pipeline
    from occplug.utils.imagefile import read_pixels

    pipeline = build_pipeline(list(transforms), 256, 128, MEAN, STD)
    read: Callable = read_pixels
    if cached:
        kept = cached_pictures("memory", "benchmark", cached, read_pixels, pipeline.per_image.resize)
        read = dict(zip(cached, (kept[number] for number in range(len(kept))))).__getitem__
    return lambda path: pipeline.per_image(read(path)), lambda images: pipeline.per_batch(torch.stack(images))


def _torchreids(transforms: Sequence[str]) -> Side:
    from occplug import torchreid_host as bridge

    read_image = bridge.sub("utils.tools").read_image
    with contextlib.redirect_stdout(io.StringIO()):
        transform, _ = bridge.sub("data.transforms").build_transforms(
            256, 128, transforms=list(transforms), norm_mean=list(MEAN), norm_std=list(STD)
        )
    return lambda path: transform(read_image(path)), torch.stack


def augment(quick: bool) -> Rows:
    """Loading with each occlusion on every image against plain loading."""
    count = 64 if quick else 256
    with tempfile.TemporaryDirectory() as folder:
        spent = measured(_augmenting, write_images(Path(folder), count)).output
    plain = spent["none"]
    rows = [
        [name, f"{1e3 * seconds / count:.3f}", f"x{seconds / plain:.2f}", f"{1e3 * (seconds - plain) / count:.3f}"]
        for name, seconds in spent.items()
    ]
    heads = ("on every image", "CPU ms an image", "of plain loading", "CPU ms added")
    note = "flip and pad-crop besides; JPEGs of about 260 x 110; what can be made ahead is, but where it is said"
    return Rows(f"augment: {count:,} JPEGs to batches of {BATCH} of 256x128", heads, rows, note)


def _augmenting(paths: list[str]) -> Callable:
    """Name of an augmentation, or "none" -> seconds of all paths."""
    _start()
    sides = {name: _occluding(name, paths, ahead=True) for name in ("none", *AUGMENTATIONS)}
    for name in PREPARED:
        sides[f"{name}, none made ahead"] = _occluding(name, paths, ahead=False)
    return lambda: fastest(sides, paths)


def _occluding(name: str, paths: list[str], ahead: bool) -> Side:
    from occplug.occluders import Library
    from occplug.transforms import build_pipeline
    from occplug.utils.imagefile import read_pixels

    names, options = ([], {}) if name == "none" else ([name], {name: {"prob": 1.0}})
    pipeline = build_pipeline(["random_flip", "pad_crop", *names], 256, 128, MEAN, STD, options)
    pipeline.bind([(path,) for path in paths], read_pixels)
    if ahead:
        pipeline.prepare()
    elif hasattr(pipeline.transforms[-1], "shapes"):
        # another library of the same cut-outs, which holds none that were made ahead
        shapes = pipeline.transforms[-1].shapes
        library = shapes.library
        shapes.library = Library(library.folder, library.split, library.categories, library.cutouts)
    return (
        lambda path: pipeline.per_image(read_pixels(path)),
        lambda images: pipeline.per_batch(torch.stack(images)),
    )
