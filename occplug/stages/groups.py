"""Parameter groups in which biases learn at another rate."""

from __future__ import annotations

from collections.abc import Callable, Collection

from occplug.backbones.tower import Tower
from occplug.method import Group
from occplug.stages.schedules import rate_schedule

__all__ = ["module_rate", "rated", "tower_pattern", "with_biases"]


def module_rate(options) -> float:
    """The rate of a stage's parts that start from noise: `module_lr` of its options, `lr` where that is null."""
    return options.lr if options.module_lr is None else options.module_lr


def tower_pattern(
    tower: Tower, levels: Collection[int] = (), prefix: str = r"backbone\.", is_projected: bool = False
) -> str:
    """A pattern for the parameters of `tower` that losses on its feature and on the blocks `levels` can train.

    Args:
        prefix: what the tower's names begin with.
        is_projected: whether a loss reads the projected feature or tokens, too.
    """
    others = [*tower.untrained(levels), *(() if is_projected else tower.projection_names)]
    return prefix + (rf"(?!(?:{'|'.join(others)})\Z)" if others else "") + ".*"


def with_biases(
    pattern: str,
    lr: float,
    bias_lr_factor: float,
    weight_decay: float,
    schedule: Callable[[float], Callable[[int], float]] | None = None,
) -> list[Group]:
    """Two groups of what `pattern` matches: parameters with "bias" anywhere in their name, and the others.

    Args:
        pattern: matched against whole parameter names; must match some of both kinds.
        bias_lr_factor: on `lr`, for the biases.
        schedule: base rate -> the group's own schedule; None: the stage's.
    """
    rates = ((rf"(?=(?:{pattern})\Z).*bias.*", lr * bias_lr_factor), (pattern, lr))
    return [Group(which, rate, weight_decay, schedule and schedule(rate)) for which, rate in rates]


def rated(pattern: str, options, lr: float) -> list[Group]:
    """The groups of what `pattern` matches at the base rate `lr`, by a stage's node.

    Args:
        options: with bias_lr_factor, weight_decay and the keys of `SCHEDULE`; one group where biases learn alike.
    """
    own = rate_schedule(options) if options.schedule == "cosine" else None
    if options.bias_lr_factor == 1:
        return [Group(pattern, lr, options.weight_decay, own and own(lr))]
    return with_biases(pattern, lr, options.bias_lr_factor, options.weight_decay, own)
