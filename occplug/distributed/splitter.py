"""Runs a model's per-image modules on parts of a batch, with the gradient of the whole batch."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from occplug.distributed.layers import replacement
from occplug.distributed.parts import even_bounds
from occplug.distributed.ranks import Ranks
from occplug.distributed.split import Plan, SplitImages, current_part, run_split
from occplug.errors import TrainingError

__all__ = ["Splitter", "check_agreement", "tensor_digests"]

BUCKET = 1 << 24  # numbers summed over the ranks at once
_in_step: ContextVar[bool] = ContextVar("in_step", default=False)


class Splitter:
    """Makes the modules of `model` that say so (attribute `splits`) take :class:`SplitImages`.

    "images": the module is called with the images of a batch. "rows": with a tensor that every rank has, and within
    :meth:`step` its rows are dealt, too. Either way each row of the output depends on that row of the input alone, but
    for batch norm, which takes its statistics over all ranks, and for dropout and stochastic depth, which draw for the
    whole batch on each rank.

    Gradients: a parameter used by such a module gets on each rank the gradient of its rows alone, one used elsewhere
    that of the whole batch. The former is collected apart, in a second leaf that shares the parameter's memory, so
    :meth:`reduce` can sum it and leave the latter, whatever uses the parameter.

    Args:
        ranks: the processes.
        micro_batch: most images computed at once with gradient; 0: all that a rank has. The others are computed again
            when their gradient is (`torch.utils.checkpoint`), so their intermediate values need no memory.
    """

    def __init__(self, ranks: Ranks, micro_batch: int = 0):
        self.ranks, self.micro_batch = ranks, micro_batch
        self._shadows: dict[nn.Parameter, Tensor] = {}

    @property
    def is_needed(self) -> bool:
        """Whether anything differs from one process on whole batches."""
        return self.ranks.world > 1 or self.micro_batch > 0

    @contextlib.contextmanager
    def installed(self, model: nn.Module) -> Iterator[None]:
        """Within the block the modules of `model` run split; after it `model` is as it was."""
        changed: list[tuple[nn.Module, Callable | None]] = []  # with what stood in place of the class's `forward`
        if self.is_needed:
            for name, module in model.named_modules():
                kind = getattr(module, "splits", None)
                if isinstance(kind, str):
                    forward: Callable | None = partial(self._run, module, kind, module.forward)
                else:
                    forward = replacement(module, name)
                if forward is not None:
                    changed.append((module, module.__dict__.get("forward")))
                    module.forward = forward
        try:
            yield
        finally:
            for module, before in changed:
                del module.forward
                if before is not None:
                    module.forward = before
            self._shadows.clear()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Around the losses of a training step."""
        token = _in_step.set(self.is_needed)
        try:
            yield
        finally:
            _in_step.reset(token)

    def _run(self, module: nn.Module, kind: str, forward: Callable, first, *args, **kwargs):
        if current_part() is not None:  # a module within one that runs split
            return forward(first, *args, **kwargs)
        if isinstance(first, SplitImages):
            plan = first.plan
        elif kind == "rows" and _in_step.get() and len(first) >= self.ranks.world:
            plan = Plan(self.ranks, even_bounds(len(first), self.ranks.world), self.micro_batch)
        else:
            return forward(first, *args, **kwargs)
        call = partial(self._with_shadows, module) if self._needs_shadows() else forward
        return run_split(call, plan, first, args, kwargs, owner=module)

    def _needs_shadows(self) -> bool:
        return self.ranks.world > 1 and torch.is_grad_enabled()

    def _with_shadows(self, module: nn.Module, *args, **kwargs):
        shadows = {name: self._shadow(p) for name, p in module.named_parameters() if p.requires_grad}
        return functional_call(module, shadows, args, kwargs)

    def _shadow(self, parameter: nn.Parameter) -> Tensor:
        if parameter not in self._shadows:
            self._shadows[parameter] = parameter.detach().requires_grad_()
        return self._shadows[parameter]

    # ------------------------------------------------------------------ gradients

    def reduce(self, parameters: Iterable[nn.Parameter]) -> None:
        """After `backward`: give `parameters` the gradient of the whole batch, the same on all ranks to the bit.

        What every rank has in full is averaged, as kernels need not add up in the same order everywhere.
        """
        if self.ranks.world == 1:
            return
        bucket: list[nn.Parameter] = []
        for parameter in parameters:
            if self._merge(parameter):
                if bucket and (bucket[0].dtype != parameter.dtype or _numbers(bucket) >= BUCKET):
                    self._sum(bucket)
                    bucket = []
                bucket.append(parameter)
        self._sum(bucket)

    def _merge(self, parameter: nn.Parameter) -> bool:
        """Put this rank's share of the sum into `parameter.grad`; False if it has no gradient."""
        shadow = self._shadows.get(parameter)
        partly = None if shadow is None else shadow.grad
        if parameter.grad is not None:
            parameter.grad /= self.ranks.world
            if partly is not None:
                parameter.grad += partly
        elif partly is not None:
            parameter.grad = partly
        if shadow is not None:
            shadow.grad = None
        return parameter.grad is not None

    def _sum(self, parameters: list[nn.Parameter]) -> None:
        if not parameters:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.ranks.sum_(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, total in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(total.view_as(gradient))


def _numbers(parameters: list[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def tensor_digests(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Name -> a checksum over all bits of the tensor."""
    values = {name: tensor.detach().cpu().contiguous().reshape(-1) for name, tensor in tensors.items()}
    return {name: zlib.crc32(value.view(torch.uint8).numpy().data) for name, value in values.items()}


def check_agreement(ranks: Ranks, model: nn.Module) -> None:
    """Raise TrainingError if a bit of the weights, or of torch's random numbers to come, differs between the ranks."""
    states = {"random numbers": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random numbers on the GPU"] = torch.cuda.get_rng_state()
    weights = {f"weights {name}": parameter for name, parameter in model.named_parameters()}
    everywhere = ranks.objects(tensor_digests({**weights, **states}))
    differing = [name for name, value in everywhere[0].items() if any(other[name] != value for other in everywhere)]
    if differing:
        raise TrainingError(
            f"the {', '.join(differing[:3])}{', ...' if len(differing) > 3 else ''} of the processes differ; a part of "
            "the model probably draws random numbers, or updates itself, from the images of one process alone. Such a "
            "model trains on one process"
        )
