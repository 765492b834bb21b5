"""The processes of one run: who they are, how they exchange tensors and objects, and how they end."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from occplug.errors import ConfigError, DataError, OccplugError

__all__ = ["ONE", "Ranks", "current_ranks", "join_ranks"]

log = logging.getLogger(__name__)
# A rank that died is noticed by its closed connection or by torchrun; the limit is for one that hangs, and has to leave
# time for work that one rank does alone, such as ranking a large gallery.
PATIENCE = datetime.timedelta(hours=2)
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun tells each process


@dataclass(frozen=True)
class Ranks:
    """The processes that compute one run together; :data:`ONE` where there is a single one.

    Args:
        rank: number of this process, from 0.
        world: number of processes.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files and its log."""
        return self.rank == 0

    # ------------------------------------------------------------------ tensors

    def gather_rows(self, own: Tensor, bounds: Sequence[int]) -> Tensor:
        """The rows of all ranks, in the order of the ranks; no gradient.

        Args:
            own: [n, ...], this rank's rows.
            bounds: rank r has the rows bounds[r] to bounds[r + 1] - 1 of the result; length `world` + 1.
        """
        if self.world == 1:
            return own
        counts = [stop - start for start, stop in zip(bounds, bounds[1:])]
        sent = own.to(torch.uint8) if own.dtype == torch.bool else own
        padded = sent.new_zeros(max(counts), *own.shape[1:])
        padded[: len(own)] = sent
        received = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(received, padded)
        return torch.cat([rows[:count] for rows, count in zip(received, counts)]).to(own.dtype)

    def sum_(self, tensor: Tensor) -> Tensor:
        """`tensor`, after its sum over all ranks was written into it."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def from_main_(self, tensor: Tensor) -> None:
        """Overwrite `tensor` with rank 0's."""
        if self.world > 1:
            dist.broadcast(tensor, src=0)

    # ------------------------------------------------------------------ objects

    def objects(self, value: Any) -> list:
        """`value` of every rank, in their order, on all of them; also a point where all wait for the last."""
        if self.world == 1:
            return [value]
        values: list = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_main(self, compute: Callable[[], Any]) -> Any:
        """What `compute` gives on rank 0, the only one that calls it, on every rank.

        Raises: on every rank what `compute` raised, if that is an :class:`OccplugError`.
        """
        if self.world == 1:
            return compute()
        sent: list = [None, None]
        if self.is_main:
            try:
                sent = [compute(), None]
            except OccplugError as error:
                sent = [None, error]
        dist.broadcast_object_list(sent, src=0)
        if sent[1] is not None:
            raise sent[1]
        return sent[0]

    @contextlib.contextmanager
    def entered_by_main(self, context: AbstractContextManager) -> Iterator[None]:
        """The block inside `context`, which rank 0 alone enters.

        Raises: on every rank what entering raised on rank 0, if that is an :class:`OccplugError`.
        """
        with contextlib.ExitStack() as stack:

            def enter() -> None:
                stack.enter_context(context)

            self.from_main(enter)
            yield

    @contextlib.contextmanager
    def local_main_first(self) -> Iterator[None]:
        """One process of each machine goes through the block before the others: what it leaves on disk they find."""
        if self.local_rank:
            self.objects(None)
        yield
        if not self.local_rank:
            self.objects(None)

    def check_same(self, values: dict[str, Any], cure: str) -> None:
        """Raise DataError on every rank if `values` are not those of rank 0 on each of them; names ranks and keys."""
        digest = hashlib.sha256(repr(sorted(values.items())).encode(errors="surrogateescape")).digest()
        if len(set(self.objects(digest))) == 1:  # there may be very many values
            return
        everywhere = self.objects(values)
        first = everywhere[0]
        lines = [
            f"{name} is {first.get(name)!r} on rank 0 and {other.get(name)!r} on rank {rank}"
            for rank, other in enumerate(everywhere)
            for name in sorted(first.keys() | other.keys())
            if other.get(name) != first.get(name)
        ]
        if lines:
            raise DataError("\n  ".join([f"the processes of this run differ; {cure}", *lines[:10]]))


ONE = Ranks()
_current: ContextVar[Ranks] = ContextVar("ranks", default=ONE)


def current_ranks() -> Ranks:
    """The processes of the run this code is part of; :data:`ONE` outside :func:`join_ranks`."""
    return _current.get()


@contextlib.contextmanager
def join_ranks(use_gpu: bool = False) -> Iterator[Ranks]:
    """Join the other processes that torchrun has started, for the time of the block.

    Without torchrun (and without a process group that the caller has made) this is the only process. Inside, log
    messages below errors come from rank 0 alone. If a process fails, the first to notice raises, and so speaks for all;
    the others leave with `SystemExit` and say nothing.

    Args:
        use_gpu: each process computes on the GPU of its local rank.

    Raises:
        ConfigError: more processes than GPUs on this machine.
    """
    if _current.get() is not ONE:
        yield _current.get()
        return
    made, store = False, None
    if not dist.is_initialized() and _started_by_torchrun():
        made, store = True, _start(use_gpu)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield ONE
        return
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", dist.get_rank())))
    token = _current.set(ranks)
    try:
        with _one_message(store), _terminated_is_interrupted():
            yield ranks
        if made:
            ranks.objects(None)  # nobody closes connections that others still use
            dist.destroy_process_group()
    finally:
        _current.reset(token)


def _started_by_torchrun() -> bool:
    return all(name in os.environ for name in TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1


def _start(use_gpu: bool):
    local = int(os.environ.get("LOCAL_RANK", 0))
    if use_gpu:
        count = torch.cuda.device_count()
        if local >= count:
            raise ConfigError(
                f"this machine has {count} GPUs and process {local} (counted from 0) has none of its own; start "
                f"torchrun with --nproc-per-node {count}, or set use_gpu False"
            )
        torch.cuda.set_device(local)
    store, rank, world = next(dist.rendezvous("env://"))
    store = own_part(store, rank, world)
    backend = "cpu:gloo,cuda:nccl" if use_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    return store


def own_part(store, rank: int, world: int):
    """A part of `store` that the processes of this start share, and no earlier ones have written to.

    torchrun keeps its store when it starts processes again, and its count of restarts need not be the same on all
    machines. So rank 0 invents a name and gives it to each process that asks; questions left by processes that are gone
    get an answer that nobody takes.
    """
    store.set_timeout(PATIENCE)
    shared = dist.PrefixStore("occplug", store)
    own = uuid.uuid4().hex
    if rank:
        shared.set(f"question {rank}", own)
        name = shared.get(f"answer to {own}").decode()
        shared.set(f"{name} is known to {rank}", own)
    else:
        name, waiting = own, set(range(1, world))
        while waiting:
            for other in sorted(waiting):
                shared.set(f"answer to {shared.get(f'question {other}').decode()}", name)  # waits for a question
            waiting = {other for other in waiting if not shared.check([f"{name} is known to {other}"])}
            time.sleep(0.05)
    return dist.PrefixStore(name, shared)


@contextlib.contextmanager
def _one_message(store) -> Iterator[None]:
    """Of all ranks that fail in the block only the first one's error goes on."""
    try:
        yield
    except Exception as error:
        if not _is_first(store):
            raise SystemExit(2 if isinstance(error, OccplugError) else 1) from None
        if _is_lost(error):
            raise SystemExit(
                "occplug: another process of this run has ended or cannot be reached; its own messages are above, if "
                "it had time for any. The run can go on from its last state: start the same command with --resume "
                f"({str(error).splitlines()[0][:120]})"
            ) from None
        raise
    except KeyboardInterrupt:
        if not _is_first(store):
            raise SystemExit(1) from None
        raise


def _is_first(store) -> bool:
    if store is None:
        return True
    try:
        return store.add("failed", 1) == 1
    except (RuntimeError, dist.DistError):  # it was kept by a rank that is gone
        return True


def _is_lost(error: Exception) -> bool:
    """Whether `error` says that another process cannot be reached; gloo has no class of its own for that."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


@contextlib.contextmanager
def _terminated_is_interrupted() -> Iterator[None]:
    """SIGTERM, which torchrun sends to all when one fails and machines before they are taken away, as Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
