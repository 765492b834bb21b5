"""Learning-rate schedules: functions of the 1-based epoch that return a factor on the base rate.

Both are set before an epoch's first step, so epoch 1 already trains at `factor(1)`.
"""

import math
from collections.abc import Callable, Sequence

__all__ = ["warmup_cosine", "warmup_multistep"]


def warmup_cosine(
    lr: float, epochs: int, warmup_epochs: int, warmup_lr: float, min_lr: float, lag: int = 0
) -> Callable[[int], float]:
    """Linear warm-up from `warmup_lr`, then a cosine down to `min_lr` that is *not* shifted by the warm-up.

    The schedule of CLIP-ReID's first stage (official code): for epoch e < warmup_epochs the rate is
    warmup_lr + e (lr - warmup_lr) / warmup_epochs, afterwards min_lr + (lr - min_lr) (1 + cos(pi e / epochs)) / 2.

    Args:
        lag: epochs by which the rates are late: epoch e has the rate of e - lag. 1 where the official code steps its
            schedule at the end of an epoch (PersonViT, SOLIDER), while TransReID and DPM step before.
    """

    def factor(epoch: int) -> float:
        epoch -= lag
        if epoch < warmup_epochs:
            return (warmup_lr + epoch * (lr - warmup_lr) / warmup_epochs) / lr
        return (min_lr + (lr - min_lr) * (1 + math.cos(math.pi * min(epoch, epochs) / max(epochs, 1))) / 2) / lr

    return factor if lr else lambda epoch: 0.0


def warmup_multistep(
    steps: Sequence[int], gamma: float, warmup_epochs: int, warmup_factor: float
) -> Callable[[int], float]:
    """Linear warm-up from `warmup_factor` to 1 over `warmup_epochs`, times `gamma` for every milestone reached.

    The schedule of CLIP-ReID's second stage (official code): the drop acts from the milestone's epoch on, and the
    warm-up factor at epoch e < warmup_epochs is f + (1 - f) e / warmup_epochs.
    """

    def factor(epoch: int) -> float:
        warm = 1.0 if epoch >= warmup_epochs else warmup_factor + (1 - warmup_factor) * epoch / warmup_epochs
        return warm * gamma ** sum(step <= epoch for step in steps)

    return factor
