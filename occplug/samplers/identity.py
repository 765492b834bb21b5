"""P identities times K images in every batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from occplug.errors import ConfigError, DataError
from occplug.registry import SAMPLERS

__all__ = ["IdentitySampler", "check_identity_batches"]


def check_identity_batches(data_source: Sequence, batch_size: int, num_instances: int) -> None:
    """Raise an error unless batches of `batch_size` with `num_instances` images per identity can be drawn.

    Raises:
        ConfigError: `batch_size` is not a multiple of `num_instances`.
        DataError: too few identities for one batch, or no identity with a pair of images.
    """
    if batch_size < num_instances or batch_size % num_instances:
        raise ConfigError(
            f"train.batch_size is {batch_size} and sampler.num_instances {num_instances}: "
            "the first must be a multiple of the second"
        )
    counts = Counter(item[1] for item in data_source)
    needed = batch_size // num_instances
    if len(counts) < needed:
        raise DataError(
            f"a batch needs {needed} identities (train.batch_size / sampler.num_instances) and the "
            f"training set has {len(counts)}; lower train.batch_size"
        )
    if num_instances > 1 and max(counts.values()) == 1:
        raise DataError(
            "every identity has a single training image, so there are no pairs to learn from; sampler 'identity' "
            "(sampler.train_sampler) needs at least two images of some identity"
        )


@SAMPLERS.register_module("identity")
class IdentitySampler(Sampler[int]):
    """Indices such that each batch holds K images of each of P identities.

    The algorithm of torchreid's RandomIdentitySampler (and CLIP-ReID): per identity shuffle its images, fill up to K by
    drawing with replacement, cut into groups of K and drop an incomplete last one; while at least P identities have
    groups left, draw P of them without replacement and take one group of each. Unlike torchreid's, `len()` is exact:
    the draw of an epoch depends on (seed, epoch) alone.

    Every pass is one of the epoch chosen by `set_epoch`; before it is called for the first time (torchreid's own data
    manager never does), of epochs 0, 1, 2 and so on, and `len()` is that of the coming pass.

    Args:
        data_source: items (path, pid, camid, ...).
        batch_size: P * K.
        num_instances: K.
        seed: of all epochs; None draws one from torch's generator.

    Raises:
        ConfigError, DataError: as `check_identity_batches`.
    """

    def __init__(self, data_source: Sequence, batch_size: int, num_instances: int = 4, seed: int | None = None):
        check_identity_batches(data_source, batch_size, num_instances)
        self.per_batch, self.instances = batch_size // num_instances, num_instances
        self.seed = int(torch.randint(2**32, ())) if seed is None else seed
        pids = np.array([item[1] for item in data_source])
        self.groups_of = {int(pid): np.flatnonzero(pids == pid) for pid in np.unique(pids)}
        self.order: list[int] | None = None  # of the chosen epoch, once drawn
        self.is_steered = False  # by `set_epoch`
        self._choose(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the passes from now on."""
        self.is_steered = True
        self._choose(epoch)

    def __iter__(self) -> Iterator[int]:
        order = self._order()
        if not self.is_steered:
            self._choose(self.epoch + 1)
        return iter(order)

    def __len__(self) -> int:
        return len(self._order())

    def _choose(self, epoch: int) -> None:
        self.epoch, self.order = epoch, None

    def _order(self) -> list[int]:
        """The indices of the chosen epoch, drawn when first asked for."""
        if self.order is None:
            self.order = self._draw(np.random.default_rng([self.seed, self.epoch]))
        return self.order

    def _draw(self, rng: np.random.Generator) -> list[int]:
        queues = {pid: self._groups(indices, rng) for pid, indices in self.groups_of.items()}
        left, order = list(queues), []
        while len(left) >= self.per_batch:
            for pid in rng.choice(left, self.per_batch, replace=False).tolist():
                order += queues[pid].pop(0)
                if not queues[pid]:
                    left.remove(pid)
        return order

    def _groups(self, indices: np.ndarray, rng) -> list[list[int]]:
        if len(indices) < self.instances:
            indices = rng.choice(indices, self.instances, replace=True)
        indices = rng.permutation(indices)
        whole = len(indices) // self.instances * self.instances
        return indices[:whole].reshape(-1, self.instances).tolist()
