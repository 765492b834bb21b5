"""What makes a step faster and leaves its result the same up to rounding, by keys that are off: `run.compile`,
`run.fused`."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator

import torch
from torch import nn

from occplug.errors import ConfigError

__all__ = ["compiled", "fused"]


@contextlib.contextmanager
def compiled(model: nn.Module, wanted: bool = True, backend: str = "inductor") -> Iterator[None]:
    """Within the block the image towers of `model` are compiled by `torch.compile`, each when it is first called.

    In place: modules, names of parameters and checkpoints stay. Compiled is what an image tower computes of a batch
    (modules whose attribute `splits` is "images"); losses and text towers are not.

    Args:
        wanted: False leaves everything as it is.
        backend: of `torch.compile`.

    Raises:
        ConfigError: the model has no image tower.
    """
    towers = _outermost(model) if wanted else []
    if wanted and not towers:
        raise ConfigError(f"run.compile: {type(model).__name__} has no image tower to compile; set it False")
    for tower in towers:
        tower.forward = torch.compile(tower.forward, backend=backend)
    try:
        yield
    finally:
        for tower in towers:
            del tower.forward


def _outermost(model: nn.Module) -> list[nn.Module]:
    """Image towers that lie in no other one."""
    found = {name: module for name, module in model.named_modules() if getattr(module, "splits", None) == "images"}
    return [module for name, module in found.items() if not any(name.startswith(f"{other}.") for other in found)]


def fused(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """`optimizer`, fresh, in its fused form: one kernel for all tensors, and no wait for the loss scale of float16.

    Moments and steps agree with the plain form up to rounding.

    Raises:
        ConfigError: this kind of optimiser has no fused form.
    """
    kind: Callable[..., torch.optim.Optimizer] = type(optimizer)
    accepted = inspect.signature(kind).parameters
    if "fused" not in accepted:
        raise ConfigError(f"run.fused: torch has no fused {kind.__name__}; set it False, or take adam, adamw or sgd")
    forms = ("foreach", "fused")
    groups = [{key: value for key, value in group.items() if key not in forms} for group in optimizer.param_groups]
    settings = {key: value for key, value in optimizer.defaults.items() if key in accepted and key not in forms}
    return kind(groups, **settings, fused=True)
