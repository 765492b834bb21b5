"""Freezing that survives torchreid's `open_all_layers`, which thaws everything at the start of each epoch."""

from __future__ import annotations

from torch import nn

__all__ = ["close_layers"]


def close_layers(module: nn.Module, parent_mode: bool = True) -> None:
    """Put into train mode what holds a trainable parameter, and into eval mode what holds none.

    A module without any parameter (dropout, activation) follows the module it sits in. Undoes the half of torchreid's
    `open_all_layers` that thaws batch norm statistics; run it after `model.train()`.
    """
    trainable = [parameter.requires_grad for parameter in module.parameters()]
    module.training = any(trainable) if trainable else parent_mode
    for child in module.children():
        close_layers(child, module.training)
