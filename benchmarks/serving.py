"""A user's own images: embedding a folder of them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.comparison import Rows
from benchmarks.loading import TURNS, write_images
from occplug.utils.measuring import MIB, measured

__all__ = ["embed", "embed_memory", "embed_turns"]

MODEL = "zoo://clip_reid/vit_tiny/synthocc"
SMALLEST = "zoo://torchreid/osnet_x0_25/synthocc"  # of the zoo, for what does not depend on the model
BATCH = 64


def embed(quick: bool) -> Rows:
    """`model.embed` of JPEG files against a loop with OpenCV and the same model."""
    count = 256 if quick else 10_000
    with tempfile.TemporaryDirectory() as folder:
        paths = _paths(Path(folder), count)
        found = {
            "a loop with cv2": measured(_loop, paths),
            "occplug, workers=0": measured(_embedding, paths, 0),
            "occplug, workers=2": measured(_embedding, paths, 2),
        }
    first = found["a loop with cv2"]
    rows = []
    for name, f in found.items():
        ratios = [f"{f.cpu:.3g}", f"x{first.cpu / f.cpu:.3g}", f"{f.wall:.3g}", f"x{first.wall / f.wall:.3g}"]
        rows.append([name, *ratios, f"{f.memory:,.0f}"])
    heads = ("", "CPU s", "ratio", "wall s", "ratio", "memory MiB")
    note = f"{count / first.cpu:,.0f} crops per CPU second in the loop; torch on one thread; the resize differs"
    return Rows(f"embed: {count:,} JPEGs, {MODEL}, batches of {BATCH}, no flip", heads, rows, note)


def embed_turns(quick: bool) -> Rows:
    """As `embed` with few files, in turns, so that a busy machine is as busy for all."""
    count = BATCH if quick else 4 * BATCH
    with tempfile.TemporaryDirectory() as folder:
        seconds: Any = measured(_in_turns, _paths(Path(folder), count)).output
    first = next(iter(seconds.values()))
    rows = [[n, f"{1e3 * s / count:.2f}", f"{count / s:,.0f}", f"x{first / s:.3g}"] for n, s in seconds.items()]
    heads = ("", "CPU ms a crop", "crops per CPU s", "of the loop")
    note = "the fastest turn of each; a ratio over 1 is faster than the loop"
    return Rows(f"embed_turns: {count} JPEGs, {MODEL}, batches of {BATCH}, no flip", heads, rows, note)


def _in_turns(paths: list[str]) -> Callable:
    ways = {
        "a loop with cv2": _loop(paths),
        "occplug, workers=0": _embedding(paths, 0),
        "occplug, workers=2": _embedding(paths, 2),
    }

    def work() -> dict[str, float]:
        least = dict.fromkeys(ways, float("inf"))
        for _ in range(TURNS):
            for name, way in ways.items():
                start = time.process_time()
                way()
                least[name] = min(least[name], time.process_time() - start)
        return least

    return work


def embed_memory(quick: bool) -> Rows:
    """What embedding takes beside the model as the number of crops grows."""
    rows = []
    for count in (256, 1024) if quick else (10_000, 100_000):
        with tempfile.TemporaryDirectory() as folder:
            _links(Path(folder), count)
            figures = measured(_embedding, folder, 2, SMALLEST)
        output: Any = figures.output
        size = output[1]
        memory = [f"{value:,.1f}" for value in (figures.memory, size, figures.memory - size)]
        rows.append([f"{count:,}", *memory, f"{1e3 * figures.cpu / count:.2f}"])
    heads = ("crops", "peak MiB", "of them the embeddings", "beside them", "CPU ms a crop")
    note = "peak beside the model, with the paths; 128 JPEGs of 128 x 64 under as many names as there are crops"
    return Rows(f"embed_memory: a folder of crops, {SMALLEST}, batches of {BATCH}, workers=2", heads, rows, note)


def _links(folder: Path, count: int) -> None:
    """`count` names in `folder`, of 128 JPEGs."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        paths = write_images(Path(place), min(count, 128), (128, 64), (129, 65))
        for number in range(count):
            os.link(paths[number % len(paths)], folder / f"{number:06}.jpg")


def _paths(folder: Path, count: int) -> list[str]:
    paths = write_images(folder, min(count, 128))
    return [paths[i % len(paths)] for i in range(count)]


def _embedding(pictures: list[str] | str, workers: int, weights: str = MODEL) -> Callable:
    import occplug

    model = occplug.load(weights)

    def work() -> tuple[float, float]:
        found = model.embed(pictures, batch_size=BATCH, workers=workers, flip=False)
        return float(found.vector.sum()), found.vector.numel() * 4 / MIB

    return work


def _loop(paths: list[str]) -> Callable:
    import cv2

    import occplug

    cv2.setNumThreads(1)
    model = occplug.load(MODEL)
    data = model.cfg.data
    mean, std = (np.array(values, np.float32) for values in (data.norm_mean, data.norm_std))

    @torch.no_grad()
    def work() -> float:
        found = []
        for start in range(0, len(paths), BATCH):
            read = (cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB) for path in paths[start : start + BATCH])
            images = [(cv2.resize(image, (data.width, data.height)) / np.float32(255) - mean) / std for image in read]
            found.append(model.method.embed(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)).vector)
        return float(torch.cat(found).sum())

    return work
