"""Learning-rate schedules: functions of the 1-based epoch that return a factor on the base rate.

Both are set before an epoch's first step, so epoch 1 already trains at `factor(1)`.
"""

import math
from collections.abc import Callable, Sequence

from occplug.config.ranges import AT_LEAST_0

__all__ = ["SCHEDULE", "SCHEDULE_CHOICES", "SCHEDULE_RANGES", "rate_schedule", "warmup_cosine", "warmup_multistep"]


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


# Keys of a stage that may follow either schedule, beside steps, gamma, warmup_epochs and warmup_factor of the steps
SCHEDULE: dict[str, object] = {
    "schedule": "multistep",  # or cosine, whose warm-up and end have the rates that follow, whatever the base rate
    "warmup_lr": 4e-6,
    "min_lr": 8e-7,
    "rate_lag": 0,  # epochs by which the cosine's rates are late
}
SCHEDULE_CHOICES = {"schedule": ("multistep", "cosine")}
SCHEDULE_RANGES = dict.fromkeys(("warmup_lr", "min_lr", "rate_lag"), AT_LEAST_0)


def rate_schedule(options) -> Callable[[float], Callable[[int], float]]:
    """Base rate -> its schedule, from a stage's node with the keys of SCHEDULE."""
    o = options
    if o.schedule == "cosine":
        return lambda lr: warmup_cosine(lr, o.epochs, o.warmup_epochs, o.warmup_lr, o.min_lr, o.rate_lag)
    steps = warmup_multistep(o.steps, o.gamma, o.warmup_epochs, o.warmup_factor)
    return lambda lr: steps
