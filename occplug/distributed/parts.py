"""Who has which images: of a training batch, and of a pass over a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from occplug.distributed.ranks import current_ranks
from occplug.errors import ConfigError

__all__ = ["Pairs", "check_deal", "deal_rows", "each_batch", "even_bounds"]


def check_deal(batch_size: int, instances: int, world: int) -> None:
    """Raise ConfigError unless batches of `batch_size` rows, `instances` of an identity, can be dealt to `world` ranks.

    Args:
        instances: 1 for a sampler that knows no identities.
    """
    if batch_size % world:
        raise ConfigError(
            f"train.batch_size is {batch_size}, the size of the batch over all processes, and cannot be dealt evenly "
            f"to {world} of them; make it a multiple of {world}, or start another number of processes"
        )
    if batch_size // instances < world:
        raise ConfigError(
            f"a batch has {batch_size // instances} identities (train.batch_size / sampler.num_instances) and is dealt "
            f"by identities to {world} processes; start at most {batch_size // instances}, or raise train.batch_size"
        )


def even_bounds(count: int, world: int) -> list[int]:
    """Where the parts of `count` rows begin and end; rank r has rows bounds[r] to bounds[r + 1] - 1."""
    return [rank * count // world for rank in range(world + 1)]


def deal_rows(labels: Sequence[int], world: int) -> list[int]:
    """Bounds of each rank's rows of a batch with `labels`: whole identities, as many to each rank as can be.

    Rows of an identity stand side by side in a batch. If a batch of random rows has fewer runs of equal labels than
    there are ranks, its rows are dealt evenly instead.

    Returns: `world` + 1 numbers, from 0 to the number of rows.
    """
    starts = [row for row, label in enumerate(labels) if row == 0 or label != labels[row - 1]]
    if len(starts) < world:
        return even_bounds(len(labels), world)
    return [[*starts, len(labels)][run] for run in even_bounds(len(starts), world)]


def each_batch(loader: Iterable, compute: Callable[[Any], Any], bar: Callable[[Iterable], Iterable] = iter) -> list:
    """`[compute(batch) for batch in loader]`, each batch on one rank, all results on every rank, on the CPU.

    A loader whose batches are dealt already (`is_dealt`) is gone through by every rank. One with a method `part` reads
    what it needs; of others each rank reads everything.

    Args:
        compute: batch -> a tensor, or a tuple, list or dict of tensors and other values.
        bar: wraps what is gone through, to show how far it has come.
    """
    ranks = current_ranks()
    if ranks.world == 1 or getattr(loader, "is_dealt", False):
        return [compute(batch) for batch in bar(loader)]
    results = [_on_cpu(compute(batch)) for batch in bar(_part_of(loader, ranks.rank, ranks.world))]
    everywhere = ranks.objects(results)
    return [everywhere[n % ranks.world][n // ranks.world] for n in range(sum(map(len, everywhere)))]


def _part_of(loader: Any, rank: int, world: int) -> Iterable:
    return loader.part(rank, world) if hasattr(loader, "part") else islice(loader, rank, None, world)


class Pairs:
    """Two loaders side by side.

    Args:
        first, second: of equally many batches.
    """

    def __init__(self, first: Iterable, second: Iterable):
        self.both = first, second

    def __iter__(self) -> Iterator[tuple]:
        return zip(*self.both)

    def part(self, rank: int, world: int) -> Pairs:
        """Of both the same batches."""
        return Pairs(*(_part_of(loader, rank, world) for loader in self.both))


def _on_cpu(value):
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(entry) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_on_cpu(entry) for entry in value)
    return value
