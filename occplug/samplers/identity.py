"""P identities times K images in every batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from occplug.errors import ConfigError, DataError
from occplug.registry import SAMPLERS

__all__ = ["IdentitySampler"]


@SAMPLERS.register_module("identity")
class IdentitySampler(Sampler[int]):
    """Indices such that each batch holds K images of each of P identities.

    The algorithm of torchreid's RandomIdentitySampler (and CLIP-ReID): per identity shuffle its images, fill up to K by
    drawing with replacement, cut into groups of K and drop an incomplete last one; while at least P identities have
    groups left, draw P of them without replacement and take one group of each. Unlike torchreid's, `len()` is exact:
    the draw of an epoch depends on (seed, epoch) alone.

    Args:
        data_source: items (path, pid, camid, ...).
        batch_size: P * K.
        num_instances: K.
        seed: of all epochs.
    """

    def __init__(self, data_source, batch_size: int, num_instances: int, seed: int = 1):
        if batch_size < num_instances or batch_size % num_instances:
            raise ConfigError(
                f"train.batch_size is {batch_size} and sampler.num_instances {num_instances}: "
                "the first must be a multiple of the second"
            )
        pids = np.array([item[1] for item in data_source])
        self.groups_of = {int(pid): np.flatnonzero(pids == pid) for pid in np.unique(pids)}
        self.per_batch, self.instances, self.seed = batch_size // num_instances, num_instances, seed
        if len(self.groups_of) < self.per_batch:
            raise DataError(
                f"a batch needs {self.per_batch} identities (train.batch_size / sampler.num_instances) and the "
                f"training set has {len(self.groups_of)}; lower train.batch_size"
            )
        if num_instances > 1 and max(map(len, self.groups_of.values())) == 1:
            raise DataError(
                "every identity has a single training image, so there are no pairs to learn from; sampler 'identity' "
                "(sampler.train_sampler) needs at least two images of some identity"
            )
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of `epoch`."""
        rng = np.random.default_rng([self.seed, epoch])
        queues = {pid: self._groups(indices, rng) for pid, indices in self.groups_of.items()}
        left = list(queues)
        self.order: list[int] = []
        while len(left) >= self.per_batch:
            for pid in rng.choice(left, self.per_batch, replace=False).tolist():
                self.order += queues[pid].pop(0)
                if not queues[pid]:
                    left.remove(pid)

    def _groups(self, indices: np.ndarray, rng) -> list[list[int]]:
        if len(indices) < self.instances:
            indices = rng.choice(indices, self.instances, replace=True)
        indices = rng.permutation(indices)
        whole = len(indices) // self.instances * self.instances
        return indices[:whole].reshape(-1, self.instances).tolist()

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)
