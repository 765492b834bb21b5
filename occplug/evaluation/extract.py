"""Embeddings of every image a loader gives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from occplug.distributed import current_ranks, each_batch
from occplug.embedding import Embedding
from occplug.errors import DataError

__all__ = ["extract"]


@torch.no_grad()
def extract(
    embed: Callable[[Tensor, Tensor], Embedding],
    loader: Iterable[dict],
    device: torch.device | str = "cpu",
    flip: bool = False,
    title: str = "embedding",
    progress: bool | None = None,
) -> tuple[Embedding, np.ndarray, np.ndarray, list[str]]:
    """Embed all images of `loader`, in its order; the processes of a run share its batches out.

    Args:
        embed: images [B, 3, H, W] and camids [B] to their embeddings; a method's `embed`.
        loader: batches with `img`, `pid`, `camid`, `impath`.
        device: where images and camids are put.
        flip: average every field with that of the mirrored image, as the fields are, before any normalisation.
        title: before the progress bar.
        progress: show the bar; None means only on a terminal.
    Returns: the embeddings on the CPU, pids [N] and camids [N] int64, N image paths.
    Raises: DataError if the loader gives nothing.
    """
    shown = (sys.stderr.isatty() if progress is None else progress) and current_ranks().is_main

    def embedded(batch: dict) -> tuple:
        images, cameras = batch["img"].to(device, non_blocking=True), batch["camid"].to(device, non_blocking=True)
        embedding = embed(images, cameras)
        if flip:
            embedding = _mean(embedding, embed(images.flip(3), cameras))
        return embedding.to("cpu"), np.asarray(batch["pid"]), np.asarray(batch["camid"]), list(batch["impath"])

    bar = partial(tqdm, desc=title, leave=False, disable=not shown, dynamic_ncols=True)
    results = each_batch(loader, embedded, bar)
    if not results:
        raise DataError(f"{title}: there is no image to embed; check the data set's query and gallery folders")
    embeddings, pids, camids, paths = zip(*results)
    identities, cameras = (np.concatenate(values).astype(np.int64) for values in (pids, camids))
    return Embedding.cat(list(embeddings)), identities, cameras, [path for some in paths for path in some]


def _mean(one: Embedding, other: Embedding) -> Embedding:
    if one.layout() != other.layout():
        raise ValueError(f"an image and its mirror have different fields: {one.layout()} and {other.layout()}")
    fields = {name: (getattr(one, name) + getattr(other, name)) / 2 for name, _ in one.layout()}
    return Embedding(**fields)
