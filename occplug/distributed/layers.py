"""Layers that look at, or draw for, the whole batch, while some of its rows are computed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as _CudaBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from occplug.distributed.ranks import Ranks
from occplug.distributed.split import Part, current_part
from occplug.errors import ConfigError

__all__ = ["normalised", "replacement"]


def replacement(module: nn.Module, name: str) -> Callable[[Tensor], Tensor] | None:
    """What `module.forward` has to be while batches are split; None if that is what it is.

    Outside a split call it computes what it always does. A subclass with a `forward` of its own, such as a batch norm
    with fixed statistics, keeps it.

    Args:
        name: of the module within its model, for messages.
    """
    forward = type(module).forward
    if isinstance(module, _BatchNorm) and forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward):
        return partial(_batch_norm, module, name)
    if isinstance(module, _BatchNorm) and type(module).__name__ == "BatchNormAct2d":  # timm's
        return partial(_batch_norm_act, module, name)
    if isinstance(module, _DropoutNd) and type(module) in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d):
        return partial(_dropout, module)
    if type(module).__name__ == "DropPath":  # timm's, which takes long to import where nobody has
        return partial(_drop_path, module)
    return None


# ---------------------------------------------------------------------- random draws


def _dropout(module: _DropoutNd, x: Tensor) -> Tensor:
    part = current_part()
    if part is None or not module.training or not module.p:
        return type(module).forward(module, x)
    return x * _rows_of_whole(lambda ones: type(module).forward(module, ones), part, x, x.shape[1:])


def _drop_path(module: nn.Module, x: Tensor) -> Tensor:
    part = current_part()
    if part is None or not module.training or not module.drop_prob:
        return type(module).forward(module, x)
    return x * _rows_of_whole(lambda ones: type(module).forward(module, ones), part, x, (1,) * (x.ndim - 1))


def _rows_of_whole(draw: Callable[[Tensor], Tensor], part: Part, x: Tensor, shape) -> Tensor:
    """Factors for the rows `x`, drawn as for the whole batch, so that every rank and micro-batch draws alike."""
    with part.draws.for_all():
        return draw(x.new_ones(part.plan.size, *shape))[part.rows]


# ---------------------------------------------------------------------- batch norm


def _incomplete(module: nn.Module, name: str) -> Part | None:
    """The rows at hand, where `module` takes statistics of a batch that has more; else None.

    Raises:
        ConfigError: the others are not computed at the same time.
    """
    part = current_part()
    if part is None or not module.training:
        return None
    if part.plan.is_micro:
        raise ConfigError(
            f"train.micro_batch is {part.plan.micro_batch}, but the batch norm {name} takes its statistics over the "
            "whole batch, which micro-batches cannot; set it to 0, or take a backbone without batch norm (a ViT)"
        )
    return part if part.plan.ranks.world > 1 else None


def _batch_norm(module: _BatchNorm, name: str, x: Tensor) -> Tensor:
    part = _incomplete(module, name)
    return type(module).forward(module, x) if part is None else normalised(module, x, part)


def normalised(module: _BatchNorm, x: Tensor, part: Part) -> Tensor:
    """`x` by the statistics of all ranks' rows, which the running ones follow."""
    module._check_input_dim(x)
    factor = 0.0
    if module.track_running_stats and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        factor = module.momentum if module.momentum is not None else 1 / float(module.num_batches_tracked)
    normalise = _on_cuda if x.is_cuda else _on_cpu
    return normalise(module, x, factor, part)


def _batch_norm_act(module: Any, name: str, x: Tensor) -> Tensor:
    """timm's batch norm with dropout and activation behind it."""
    part = _incomplete(module, name)
    if part is None:
        return type(module).forward(module, x)
    return module.act(module.drop(normalised(module, x, part)))


def _on_cuda(module: _BatchNorm, x: Tensor, factor: float, part: Part) -> Tensor:
    """torch's own kernels, which there are for GPUs alone."""
    running = (module.running_mean, module.running_var)
    group = torch.distributed.group.WORLD
    affine = (module.weight, module.bias)
    return _CudaBatchNorm.apply(x.contiguous(), *affine, *running, module.eps, factor, group, part.plan.ranks.world)


def _on_cpu(module: _BatchNorm, x: Tensor, factor: float, part: Part) -> Tensor:
    ranks = part.plan.ranks
    count = x.numel() // x.shape[1] / (part.rows.stop - part.rows.start) * part.plan.size  # on all ranks
    dims = [d for d in range(x.ndim) if d != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    mean = _Sum.apply(x.sum(dims), ranks) / count  # [C]
    centred = x - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(dims), ranks) / count
    if module.running_mean is not None and module.running_var is not None and factor:
        with torch.no_grad():
            module.running_mean.lerp_(mean.to(module.running_mean), factor)
            module.running_var.lerp_((variance * (count / (count - 1))).to(module.running_var), factor)
    scale = (variance + module.eps).rsqrt()
    scale, shift = (scale, None) if module.weight is None else (scale * module.weight, module.bias)
    y = centred * scale.view(shape)
    return y if shift is None else y + shift.view(shape)


class _Sum(torch.autograd.Function):
    """The sum over the ranks; each rank's rows depend on it, so their gradients are summed as well."""

    @staticmethod
    def forward(ctx, value: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.sum_(value.clone())

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return ctx.ranks.sum_(gradient.clone()), None
