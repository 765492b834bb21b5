"""Images from file to batch, plain and occluded."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.comparison import Comparison, torchreid
from occplug.utils.measuring import measured

__all__ = ["augment", "loading"]

TRAIN_TRANSFORMS = ("random_flip", "random_crop", "random_erase")
AUGMENTATIONS = ("random_erase_pixel", "oamn", "oia", "rwoa")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def loading(quick: bool) -> Comparison:
    """Training images from file to normalised batch against torchreid's, both without worker processes."""
    count = 256 if quick else 1024
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_images(Path(folder), min(count, 128))
        paths = [paths[i % len(paths)] for i in range(count)]
        theirs = measured(_loading, "torchreid", paths, repeats=2)
        ours = measured(_loading, "occplug", paths, repeats=2)
    return Comparison(
        f"loading: {count:,} JPEGs to batches of 64 of 256x128; {', '.join(TRAIN_TRANSFORMS)}",
        torchreid(),
        theirs,
        ours,
        f"{count / theirs.cpu:,.0f} and {count / ours.cpu:,.0f} images per CPU second",
    )


def _write_images(folder: Path, count: int) -> list[str]:
    """Smooth random JPEGs of quality 90, about 260 x 110 pixels."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (32, 14, 3), dtype=np.uint8))
        size = int(rng.integers(90, 130)), int(rng.integers(230, 290))
        paths.append(str(folder / f"{i}.jpg"))
        small.resize(size, Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def _loading(whose: str, paths: list[str]) -> Callable:
    batches = [paths[i : i + 64] for i in range(0, len(paths), 64)]
    load = _our_batch() if whose == "occplug" else _torchreid_batch()
    return lambda: float(sum(load(batch).mean() for batch in batches))


def _our_batch() -> Callable:
    from occplug.transforms import build_pipeline
    from occplug.utils.imagefile import read_image

    pipeline = build_pipeline(list(TRAIN_TRANSFORMS), 256, 128, MEAN, STD)
    return lambda paths: pipeline.per_batch(torch.stack([pipeline.per_image(read_image(path)) for path in paths]))


def _torchreid_batch() -> Callable:
    from occplug import torchreid_host as bridge

    read_image = bridge.sub("utils.tools").read_image
    with contextlib.redirect_stdout(io.StringIO()):
        transform, _ = bridge.sub("data.transforms").build_transforms(
            256, 128, transforms=list(TRAIN_TRANSFORMS), norm_mean=list(MEAN), norm_std=list(STD)
        )
    return lambda paths: torch.stack([transform(read_image(path)) for path in paths])


def augment(quick: bool) -> Comparison:
    """Loading with RWOA on every image against plain loading; the note has the other augmentations."""
    count = 128 if quick else 512
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_images(Path(folder), min(count, 128))
        paths = [paths[i % len(paths)] for i in range(count)]
        plain, *others = (measured(_augmenting, name, paths, repeats=2) for name in (None, *AUGMENTATIONS))
    shares = [f"{name} x{other.cpu / plain.cpu:.2f}" for name, other in zip(AUGMENTATIONS, others)]
    each = 1e3 * (others[-1].cpu - plain.cpu) / count
    return Comparison(
        f"augment: {count:,} JPEGs to batches of 64 of 256x128, flip and pad-crop, with rwoa on every image",
        "without an occluder",
        plain,
        others[-1],
        f"CPU time against plain loading, every image occluded: {', '.join(shares)}; rwoa takes {each:.2f} ms an image",
    )


def _augmenting(name: str | None, paths: list[str]) -> Callable:
    """`name` None: flip and pad-crop alone."""
    from occplug.transforms import build_pipeline
    from occplug.utils.imagefile import read_image

    names = ["random_flip", "pad_crop", *([name] if name else [])]
    pipeline = build_pipeline(names, 256, 128, MEAN, STD, {name: {"prob": 1.0}} if name else {})
    pipeline.bind([(path,) for path in paths], read_image)

    def work() -> float:
        rows = ([pipeline.per_image(read_image(p)) for p in paths[i : i + 64]] for i in range(0, len(paths), 64))
        return float(sum(pipeline.per_batch(torch.stack(row)).mean() for row in rows))

    return work
