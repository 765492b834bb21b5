"""Embeddings of every image a loader gives."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from occplug.distributed import current_ranks, each_batch
from occplug.embedding import Embedding, Origin
from occplug.errors import DataError
from occplug.utils.devices import device_named

__all__ = ["HALF", "extract"]

log = logging.getLogger(__name__)
# images at once for each thread of a CPU: larger activations leave its caches, and take fresh pages for every batch
CPU_PART = 16
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  # values of `eval.amp` beside "none"


@torch.no_grad()
def extract(
    embed: Callable[[Tensor, Tensor], Embedding],
    loader: Iterable[dict],
    device: torch.device | str = "cpu",
    flip: bool = False,
    title: str = "embedding",
    progress: bool | None = None,
    amp: str = "none",
) -> tuple[Embedding, np.ndarray, np.ndarray, list[str]]:
    """Embed all images of `loader`, in its order; the processes of a run share its batches out.

    Args:
        embed: images [B, 3, H, W] and camids [B] to their embeddings; a method's `embed`. A batch that does not fit
            into a GPU's memory is embedded in parts, and so are the batches after it; on a CPU, batches are embedded
            in parts whose activations stay in its caches.
        loader: batches with `img`, `pid`, `camid`, `impath`.
        device: where images and camids are put.
        flip: average every field with that of the mirrored image, as the fields are, before any normalisation.
        title: before the progress bar.
        progress: show the bar; None means only on a terminal.
        amp: "bf16" or "fp16": matrix products in half precision, which gives other numbers; "none".
    Returns: the embeddings on the CPU, pids [N] and camids [N] int64, N image paths.
    Raises: DataError if the loader gives nothing, or an embedding is not finite; names its image. ConfigError for the
        name of a device that is not there.
    """
    shown = (sys.stderr.isatty() if progress is None else progress) and current_ranks().is_main
    device = device_named(device) if isinstance(device, str) else device
    parts = _InParts(embed, 0 if device.type != "cpu" else CPU_PART * torch.get_num_threads())

    def embedded(batch: dict) -> tuple:
        images, cameras = batch["img"].to(device, non_blocking=True), batch["camid"].to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=HALF.get(amp), enabled=amp != "none"):
            embedding = parts(images, cameras)
            if flip:
                embedding = _mean(embedding, parts(images.flip(3), cameras))
        return embedding.to("cpu"), np.asarray(batch["pid"]), np.asarray(batch["camid"]), list(batch["impath"])

    bar = partial(tqdm, desc=title, leave=False, disable=not shown, dynamic_ncols=True)
    results = each_batch(loader, embedded, bar)
    if not results:
        raise DataError(f"{title}: there is no image to embed; check the data set's query and gallery folders")
    embeddings, pids, camids, paths = zip(*results)
    identities, cameras = (np.concatenate(values).astype(np.int64) for values in (pids, camids))
    embedding, names = Embedding.cat(list(embeddings)), [path for some in paths for path in some]
    replace(embedding, origin=Origin(tuple(names))).check_finite()
    return embedding, identities, cameras, names


class _InParts:
    """`embed`, of at most `most` images at once (0: all), and of no more than there is memory for."""

    def __init__(self, embed: Callable[[Tensor, Tensor], Embedding], most: int = 0):
        self.embed, self.most = embed, most

    def __call__(self, images: Tensor, cameras: Tensor) -> Embedding:
        while True:
            size = min(self.most or len(images), len(images))
            try:
                embedded = [self.embed(*pair) for pair in zip(images.split(size), cameras.split(size))]
                return embedded[0] if len(embedded) == 1 else Embedding.cat(embedded)
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
            torch.cuda.empty_cache()  # outside the handler, whose traceback holds the tensors
            self.most = (size + 1) // 2
            log.warning("%d images are too many for the GPU's memory; embedding %d at a time", size, self.most)


def _mean(one: Embedding, other: Embedding) -> Embedding:
    if one.layout() != other.layout():
        raise ValueError(f"an image and its mirror have different fields: {one.layout()} and {other.layout()}")
    fields = {name: (getattr(one, name) + getattr(other, name)) / 2 for name, _ in one.layout()}
    return Embedding(**fields)
