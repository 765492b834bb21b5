"""Optimisers by name."""

from collections.abc import Callable
from functools import partial

import torch

from occplug.errors import ConfigError

__all__ = ["OPTIMISERS", "optimiser"]

# Adam couples weight decay with the gradient (what CLIP-ReID's official code uses), AdamW decouples it.
OPTIMISERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": partial(torch.optim.SGD, momentum=0.9),
}


def optimiser(name: str) -> Callable[[list[dict]], torch.optim.Optimizer]:
    """A function from parameter groups to the optimiser `name`, betas 0.9 and 0.999; for SGD momentum 0.9.

    Raises:
        ConfigError: another name.
    """
    if name not in OPTIMISERS:
        raise ConfigError(f"the optimizer {name!r} is unknown; there are: {', '.join(OPTIMISERS)}")
    return OPTIMISERS[name]
