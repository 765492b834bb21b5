"""A user's own images: embedding a folder, and searching many vectors."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.comparison import Comparison
from benchmarks.loading import _write_images
from occplug.utils.measuring import measured

__all__ = ["embed", "search"]

MODEL = "zoo://clip_reid/vit_tiny/synthocc"


def embed(quick: bool) -> Comparison:
    """`model.embed` of JPEG files against a loop with OpenCV and the same model."""
    count = 256 if quick else 10_000
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_images(Path(folder), min(count, 128))
        paths = [paths[i % len(paths)] for i in range(count)]
        theirs, ours = (measured(_embedding, whose, paths, repeats=1) for whose in ("cv2", "occplug"))
    note = f"{count / theirs.cpu:,.0f} and {count / ours.cpu:,.0f} crops per CPU second; the resize differs"
    return Comparison(f"embed: {count:,} JPEGs, {MODEL}, batches of 64", "a loop with cv2", theirs, ours, note)


def _embedding(whose: str, paths: list[str]) -> Callable:
    import occplug

    model = occplug.load(MODEL)
    if whose == "occplug":
        return lambda: float(model.embed(paths, workers=0, flip=False).vector.abs().mean())
    import cv2

    data = model.cfg.data
    mean, std = (np.array(values, np.float32) for values in (data.norm_mean, data.norm_std))

    @torch.no_grad()
    def loop() -> float:
        found = []
        for start in range(0, len(paths), 64):
            read = (cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB) for path in paths[start : start + 64])
            images = [(cv2.resize(image, (data.width, data.height)) / np.float32(255) - mean) / std for image in read]
            found.append(model.method.embed(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)).vector)
        return float(torch.cat(found).abs().mean())

    return loop


def search(quick: bool) -> Comparison:
    """faiss against exact search: noisy queries of known identities, Rank-1 and all."""
    count, people = (20_000, 2_000) if quick else (1_000_000, 50_000)
    theirs, ours = (measured(_searching, engine, count, people, repeats=1) for engine in ("exact", "faiss"))
    note = f"Rank-1 {100 * theirs.output:.1f} % and {100 * ours.output:.1f} %; building is not counted"
    return Comparison(f"search: 100 noisy queries in {count:,} x 512", "exact", theirs, ours, note)


def _searching(engine: str, count: int, people: int) -> Callable:
    from occplug import Embedding, Gallery

    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(people, 512, generator=generator)
    pids = torch.arange(count) % people
    gallery = Gallery.build(
        Embedding(centres[pids] + 0.5 * torch.randn(count, 512, generator=generator)), engine=engine
    )
    asked = torch.randint(people, (100,), generator=generator)
    queries = Embedding(centres[asked] + 2.0 * torch.randn(100, 512, generator=generator))

    def work() -> float:
        hits = gallery.search(queries, 10)
        return float((pids.numpy()[hits.ids[:, 0]] == asked.numpy()).mean())

    return work
