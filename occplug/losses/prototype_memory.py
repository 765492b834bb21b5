"""A memory of one prototype per identity, and the contrast against it."""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.errors import ConfigError
from occplug.registry import LOSSES

__all__ = ["PrototypeMemory"]

_log = logging.getLogger(__name__)


@LOSSES.register_module("prototype_memory")
class PrototypeMemory(nn.Module):
    r"""Prototypical contrastive loss with a memory bank (PCL).

    ProFD (arXiv 2409.20081), eq. 15-18. The bank K holds a unit vector per identity:

        loss = CE(x^ K^T / temperature, y)               x^ the unit feature, K without gradient
        update, after the step, identity by identity:    K[y] <- unit(momentum K[y] + (1 - momentum) x^)

    "hard" (official code) updates an identity with its feature farthest from K[y] alone, "all" (the paper) with each
    of its features in turn. The bank is a buffer, so checkpoints hold it.

    Args:
        num_classes: C, training identities.
        width: D of the features.
        momentum: share of the old prototype that is kept.
        temperature: of the softmax.
        update: "hard" or "all".

    Raises:
        ConfigError: another update.
    """

    UPDATES = ("hard", "all")
    bank: Tensor

    def __init__(
        self, num_classes: int, width: int, momentum: float = 0.2, temperature: float = 0.05, update: str = "hard"
    ):
        super().__init__()
        if update not in self.UPDATES:
            raise ConfigError(f"bank_update is {update!r}; there are: {', '.join(self.UPDATES)}")
        self.momentum, self.temperature, self.rule = momentum, temperature, update
        self.register_buffer("bank", torch.zeros(num_classes, width))

    @property
    def is_filled(self) -> bool:
        """Whether :meth:`fill` or a checkpoint has given the bank its prototypes."""
        return bool(self.bank.any())

    @torch.no_grad()
    def fill(self, features: Tensor, labels: Tensor) -> None:
        """Set every prototype to the unit mean of its identity's `features` [N, D], `labels` [N].

        An identity without a feature gets a zero row, which is at cosine 0 to everything until its first update; the
        log says how many there are.
        """
        labels = labels.to(self.bank.device)
        sums = torch.zeros_like(self.bank).index_add_(0, labels, features.to(self.bank))
        self.bank.copy_(F.normalize(sums))  # the unit mean is the unit sum
        absent = len(self.bank) - len(labels.unique())
        if absent:
            _log.warning("%d of %d identities have no image in the pass that fills the bank", absent, len(self.bank))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """`features` [B, D], `labels` [B] -> scalar float32; the bank stays as it is."""
        with torch.autocast(features.device.type, enabled=False):
            # a copy, because the bank is changed in place before somebody may look at this graph again
            cosines = F.normalize(features.float()) @ self.bank.clone().T  # [B, C]
            return F.cross_entropy(cosines / self.temperature, labels.long())

    @torch.no_grad()
    def update(self, features: Tensor, labels: Tensor) -> None:
        """Move the prototypes of `labels` [B] towards `features` [B, D]."""
        if not len(labels):
            return
        unit, labels = F.normalize(features.float()), labels.long()
        same = labels[:, None] == labels[None, :]
        if self.rule == "all":
            earlier = same.tril(-1).sum(dim=1)  # how many of the same identity come before in the batch
            for turn in range(int(earlier.max()) + 1):  # the one wait for the device: how many turns there are
                now = same & (earlier == turn)  # at most one True a row
                self._move(labels, unit[now.int().argmax(dim=1)], now.any(dim=1))
        else:
            cosines = (unit * self.bank[labels]).sum(dim=1)
            farthest = cosines.expand(len(labels), -1).masked_fill(~same, float("inf")).argmin(dim=1)
            self._move(labels, unit[farthest], torch.ones_like(labels, dtype=torch.bool))

    def _move(self, labels: Tensor, target: Tensor, moves: Tensor) -> None:
        """Move the prototypes of `labels` [B] towards `target` [B, D] where `moves` [B].

        All rows of an identity have the same target and write the same: to leave one of them would take counting, for
        which the device has to be waited for.
        """
        old = self.bank[labels]
        new = F.normalize(self.momentum * old + (1 - self.momentum) * target)
        self.bank[labels] = torch.where(moves[:, None], new, old)
