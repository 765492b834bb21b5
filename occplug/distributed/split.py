"""A batch whose images lie on several ranks, and calls that run on each rank's images and give the whole batch."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from occplug.distributed.ranks import Ranks
from occplug.errors import TrainingError

__all__ = ["Draws", "Part", "Plan", "SplitImages", "current_part", "per_image"]


class _NotWhole(TrainingError, AttributeError):
    """Something asks split images for what only a tensor has."""


class _Gather(torch.autograd.Function):
    """Own rows -> the rows of all ranks. What follows is computed on every rank alike, so each keeps its gradient."""

    @staticmethod
    def forward(ctx, rows: Tensor, plan: Plan) -> Tensor:
        ctx.own = plan.own
        return plan.ranks.gather_rows(rows, plan.bounds)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient[ctx.own].contiguous(), None


class _Deal(torch.autograd.Function):
    """A whole batch that every rank has -> own rows; backward every rank gets the gradient of all rows."""

    @staticmethod
    def forward(ctx, whole: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        return whole[plan.own]

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return ctx.plan.ranks.gather_rows(gradient.contiguous(), ctx.plan.bounds), None


@dataclass(frozen=True)
class Plan:
    """How the rows of a batch are computed.

    Args:
        ranks: the processes.
        bounds: rank r computes the rows bounds[r] to bounds[r + 1] - 1.
        micro_batch: most rows computed at a time with gradient; 0: all of a rank's.
    """

    ranks: Ranks
    bounds: Sequence[int]
    micro_batch: int = 0

    @property
    def size(self) -> int:
        """Number of rows of the whole batch."""
        return self.bounds[-1]

    @property
    def own(self) -> slice:
        """This rank's rows."""
        return slice(self.bounds[self.ranks.rank], self.bounds[self.ranks.rank + 1])

    @property
    def is_micro(self) -> bool:
        """Whether some rank computes its rows in several steps."""
        most = max(stop - start for start, stop in zip(self.bounds, self.bounds[1:]))
        return 0 < self.micro_batch < most

    @property
    def is_split(self) -> bool:
        """Whether not all rows are computed at once."""
        return self.ranks.world > 1 or self.is_micro

    def deal(self, value: Any) -> Any:
        """Own rows of a tensor [B, ...] that every rank has; other values as they are."""
        if isinstance(value, Tensor) and value.ndim and len(value) == self.size:
            return value if self.ranks.world == 1 else _Deal.apply(value, self)
        return value

    def gather(self, value: Any) -> Any:
        """All ranks' rows of every tensor in `value`, with gradient."""
        return value if self.ranks.world == 1 else _mapped(lambda tensor: _Gather.apply(tensor, self), [value])

    def chunks(self) -> list[slice]:
        """Own rows, counted from the first of them, cut into micro-batches."""
        count = self.own.stop - self.own.start
        step = self.micro_batch or count
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]


class SplitImages:
    """The images of a training batch where a process has only some of them, or must not compute all at once.

    It stands at `img` of a batch, whose other entries are those of the whole batch. Modules that a :class:`Splitter`
    runs take it in place of a tensor, and their outputs are those of the whole batch.

    Args:
        images: [n, 3, H, W], those of this rank; before :meth:`to` also what `to` makes them of.
        plan: whose they are.
    """

    def __init__(self, images: Any, plan: Plan):
        if len(images) != plan.own.stop - plan.own.start:
            raise ValueError(f"{len(images)} images for the rows {plan.own.start} to {plan.own.stop - 1}")
        self.images, self.plan = images, plan

    def __len__(self) -> int:
        return self.plan.size

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    @property
    def shape(self) -> torch.Size:
        """[B, 3, H, W] of the whole batch."""
        return torch.Size((len(self), *self.images.shape[1:]))

    def to(self, *args, **kwargs) -> SplitImages:
        """As `torch.Tensor.to`."""
        return SplitImages(self.images.to(*args, **kwargs), self.plan)

    def cuda(self) -> SplitImages:
        """As `torch.Tensor.cuda`, which torchreid's engines call."""
        return self.to("cuda")

    def whole(self) -> Tensor:
        """The images of all ranks, [B, 3, H, W]; every rank must ask."""
        return self.plan.ranks.gather_rows(self.images, self.plan.bounds)

    def __getattr__(self, name: str):
        raise _NotWhole(
            f"the images of a batch are spread over processes or micro-batches, and `{name}` asks for them as one "
            "tensor; give them to the method's image tower, or ask for `.whole()`"
        )


# ---------------------------------------------------------------------- the part that is being computed


class Draws:
    """Notices random numbers of torch that are drawn for some rows of a batch alone.

    Ranks and micro-batches would use the same ones for different rows, where one process uses different ones.

    Args:
        device: of the rows.
        owner: what computes them, for the message.
    """

    def __init__(self, device: torch.device, owner: str):
        self.device, self.owner = device, owner
        self.states = _random_states(device)

    def check(self) -> None:
        """Raise TrainingError if numbers were drawn since the last :meth:`for_all`."""
        for before, now in zip(self.states, _random_states(self.device)):
            if before is not None and not torch.equal(before, now):
                raise TrainingError(
                    f"{self.owner} draws random numbers for the images of one process or one micro-batch alone, so it "
                    "would not train as one process does on a whole batch; draw by torch.nn.Dropout or timm's DropPath "
                    "in place of functions, set the rate to 0, or train on one process with train.micro_batch 0"
                )

    @contextlib.contextmanager
    def for_all(self) -> Iterator[None]:
        """Around draws for the whole batch, the same on every rank and for every micro-batch."""
        self.check()
        yield
        self.states = _random_states(self.device)


@dataclass(frozen=True)
class Part:
    """What the code that runs on some rows of a batch cannot tell from its arguments.

    Args:
        plan: of the batch.
        rows: of the batch, those being computed.
        draws: watches random numbers meanwhile.
    """

    plan: Plan
    rows: slice
    draws: Draws


_part: ContextVar[Part | None] = ContextVar("part", default=None)


def current_part() -> Part | None:
    """The rows being computed; None where whole batches are."""
    return _part.get()


@contextlib.contextmanager
def _computing(part: Part) -> Iterator[None]:
    token = _part.set(part)
    try:
        yield
    finally:
        _part.reset(token)


# ---------------------------------------------------------------------- calls


def per_image(call: Callable, images: Tensor | SplitImages, *args, **kwargs):
    """`call(images, *args, **kwargs)`, whose rows depend on their own image alone; of split images the whole batch's.

    Without gradient each rank calls it with its own images, and the outputs alone are gathered. With gradient the
    modules in `call` split, and what it does beside them sees the whole batch.
    """
    if isinstance(images, SplitImages) and not torch.is_grad_enabled():
        return run_split(call, images.plan, images, args, kwargs)
    return call(images, *args, **kwargs)


def run_split(call: Callable, plan: Plan, first: Tensor | SplitImages, args: tuple, kwargs: dict, owner=None):
    """`call` on own rows, in micro-batches; its outputs gathered.

    Args:
        first: the images, or a tensor [B, ...] that every rank has.
        args, kwargs: of these, tensors [B, ...] are dealt, and so is what has a method `shard(images, owner)`.
        owner: the module that is called.
    """
    images = first.images if isinstance(first, SplitImages) else plan.deal(first)

    def dealt(value):
        return value.shard(first, owner) if hasattr(value, "shard") else plan.deal(value)

    name = "the image tower" if owner is None else type(owner).__name__
    args, kwargs = tuple(map(dealt, args)), {name: dealt(value) for name, value in kwargs.items()}
    count, chunks = len(images), plan.chunks()

    def compute(rows: slice):
        def taken(value):
            if isinstance(value, Tensor) and value.ndim and len(value) == count:
                return value[rows]
            return value.take(rows) if hasattr(value, "shard") else value

        start = plan.own.start
        part = Part(plan, slice(start + rows.start, start + rows.stop), Draws(images.device, name))
        with _computing(part):
            output = call(images[rows], *map(taken, args), **{name: taken(value) for name, value in kwargs.items()})
        if plan.is_split:
            part.draws.check()
        return output

    if len(chunks) == 1:
        return plan.gather(compute(chunks[0]))
    outputs, states = [], _random_states(images.device)
    for rows in chunks:
        # every micro-batch draws the numbers of the whole batch and takes its rows of them
        _set_random_states(images.device, states)
        remembers = torch.is_grad_enabled()
        outputs.append(checkpoint(compute, rows, use_reentrant=False) if remembers else compute(rows))
    return plan.gather(_mapped(lambda *tensors: torch.cat(tensors), outputs))


def _mapped(function: Callable[..., Tensor], values: list) -> Any:
    """`function` of the tensors at each place of equally built `values`: dataclasses, dicts, tuples, lists."""
    first = values[0]
    if isinstance(first, Tensor):
        return function(*values)
    if isinstance(first, dict):
        return {key: _mapped(function, [value[key] for value in values]) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_mapped(function, list(entries)) for entries in zip(*values))
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in dataclasses.fields(first)]
        new = {name: _mapped(function, [getattr(value, name) for value in values]) for name in names}
        return dataclasses.replace(first, **new)
    return first


def _random_states(device: torch.device) -> tuple:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_states(device: torch.device, states: tuple) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1], device)
