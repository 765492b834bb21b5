"""Images of a list as batches whose draws depend on (seed, epoch, index) alone, also where processes share them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset

from occplug.data.cache import PictureCache
from occplug.data.extras import Extras, finished
from occplug.distributed import ONE, Ranks, SplitImages, deal_rows
from occplug.distributed.split import Plan
from occplug.transforms import as_picture
from occplug.utils import compiled
from occplug.utils.imagefile import read_pixels

__all__ = ["DealtBatches", "Images", "Loader", "SplitLoader"]

# tells a sampler's draws from those of images (seed, epoch, index) and batches (seed, epoch, first index, 1)
OF_A_SAMPLER = (0, 2)
LABELS = ("pid", "camid", "index", "impath")  # batch entries that every process has of all rows


def _seed_all(*keys: int) -> None:
    """Seed torch's CPU generator, Python's and numpy's."""
    seed = int(np.random.SeedSequence(keys).generate_state(1)[0])
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 100 times as long, as it seeds devices too
    random.seed(seed)
    np.random.seed(seed)


@contextlib.contextmanager
def _isolated():
    """Leaves the three generators as they were."""
    before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


class _LabelsOnly(int):
    """Index of an image that another process decodes."""


class Images(Dataset):
    """Items (path, pid, camid, ...) as uint8 tensors and their labels.

    Args:
        items, pipeline: what is loaded, and the transforms.
        seed: of the draws.
        read: path -> RGB picture, or its pixels uint8 [H, W, 3].
        extras: batch entries beside images.

    Attributes:
        cache: the pictures of `items`, resized as the pipeline does; None: they are read and resized each time.
        defers: batches come as `RawBatch`, to be finished on the device, where the pipeline can.
    """

    cache: PictureCache | None = None
    defers = False

    def __init__(self, items, pipeline, seed: int = 0, read=read_pixels, extras: Extras | None = None):
        self.items, self.pipeline, self.read, self.extras = items, pipeline, read, extras
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # shared with workers that outlive an epoch

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        path, pid, camid, *source = self.items[index]
        row = {"pid": pid, "camid": camid, "impath": path, "index": int(index)}
        if isinstance(index, _LabelsOnly):
            return row
        picture = self.read(path) if self.cache is None else self.cache[index]
        if self.pipeline.is_random:
            _seed_all(self.seed, int(self.epoch), index)
        if self.extras:
            return {**row, "source": source[0], **self.extras.sample(as_picture(picture), self.pipeline)}
        return {**row, "img": self.pipeline.per_image(picture)}

    def collate(self, rows: list[dict]) -> dict:
        """Rows to one batch; normalises and applies the batch transforms.

        Of rows that another process decodes there are the labels alone.
        """
        if self.pipeline.is_random:
            _seed_all(self.seed, int(self.epoch), rows[0]["index"], 1)
        numbers = {key: torch.tensor([row[key] for row in rows]) for key in ("pid", "camid", "index")}
        labels = {**numbers, "impath": [row["impath"] for row in rows]}
        rows, kept = self._completed(rows)
        defers = self.defers and self.pipeline.per_batch.can_be_deferred
        if self.extras:
            return {**self.extras.batch(rows, self.pipeline, kept, defers), **labels}
        return {"img": finished(torch.stack([row["img"] for row in rows]), self.pipeline, kept, defers), **labels}

    def _completed(self, rows: list[dict]) -> tuple[list[dict], list[int] | None]:
        """What the batch transforms are to see of `rows`, and which of that is kept; None: all.

        They draw for the whole batch, so if there are any, rows of others are there with empty images.
        """
        decoded = [number for number, row in enumerate(rows) if "img" in row]
        if len(decoded) == len(rows):
            return rows, None
        if not self.pipeline.per_batch.transforms:
            return [rows[number] for number in decoded], None
        return [row if "img" in row else _emptied(rows[decoded[0]]) for row in rows], decoded


def _emptied(row: dict) -> dict:
    return {key: torch.zeros_like(value) if isinstance(value, torch.Tensor) else value for key, value in row.items()}


class Loader:
    """A loader whose passes depend on the seed and epoch of its images alone, samplers of torchreid and torch included
    (they draw from the global generators), and that leaves those generators as they were.

    Args:
        loader: of :class:`Images`.
        cache: gives their cache, or None; asked before each pass.
    """

    def __init__(self, loader: DataLoader, cache: Callable[[], PictureCache | None] | None = None):
        self.loader, self.cache = loader, cache
        self.dataset: Any = loader.dataset
        self.sampler, self.batch_size = loader.sampler, loader.batch_size

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        compiled.start(len(self.dataset))
        if self.cache is not None:  # before workers are forked, which then have it too
            self.dataset.cache = self.cache()
        with _isolated():
            _seed_all(self.dataset.seed, int(self.dataset.epoch), *OF_A_SAMPLER)
            batches = iter(self.loader)
            batch = next(batches, None)  # the sampler draws the whole pass
        while batch is not None:
            yield batch
            with _isolated():
                batch = next(batches, None)

    def part(self, rank: int, world: int) -> Loader:
        """Batches `rank`, `rank + world`, ... of a loader that goes through its images in order."""
        old = self.loader
        batches = list(old.batch_sampler or ())[rank::world]
        return Loader(
            DataLoader(
                old.dataset,
                batch_sampler=batches,
                num_workers=old.num_workers,
                collate_fn=old.collate_fn,
                pin_memory=old.pin_memory,
                worker_init_fn=old.worker_init_fn,
                generator=torch.Generator(),
            ),
            self.cache,
        )


class DealtBatches:
    """A batch sampler of whole batches in which the rows of other ranks ask for their labels alone.

    Args:
        batches: of indices, the same on every rank.
        labels: of all images.
    """

    def __init__(self, batches: BatchSampler, labels: Sequence[int], ranks: Ranks):
        self.batches, self.labels, self.ranks = batches, labels, ranks

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            start, stop = deal_rows([self.labels[index] for index in batch], self.ranks.world)[self.ranks.rank :][:2]
            yield [index if start <= row < stop else _LabelsOnly(index) for row, index in enumerate(batch)]


class SplitLoader:
    """Training batches whose images are :class:`SplitImages`; their other entries are those of the whole batch.

    Attributes:
        is_dealt: every rank gets every batch.
    """

    is_dealt = True

    def __init__(self, loader: Loader, ranks: Ranks = ONE, micro_batch: int = 0):
        self.loader, self.ranks, self.micro_batch = loader, ranks, micro_batch
        self.dataset, self.sampler, self.batch_size = loader.dataset, loader.sampler, loader.batch_size

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        for batch in self.loader:
            plan = Plan(self.ranks, deal_rows(batch["pid"].tolist(), self.ranks.world), self.micro_batch)
            images = SplitImages(batch.pop("img"), plan)
            others = {key: value for key, value in batch.items() if key not in LABELS}
            gathered = {key: self.ranks.gather_rows(value, plan.bounds) for key, value in others.items()}
            yield {**batch, **gathered, "img": images}
