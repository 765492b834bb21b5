"""Data-parallel steps over single-thread processes of one machine (gloo); with one process every call is the identity.

Two processes of one thread train nearly twice as fast as one process of two threads on tensors this small (measured:
103 + 103 images/s against 116).
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from occplug.utils.processes import end_with_parent

__all__ = ["all_gather", "broadcast", "join", "leave", "spawn", "sum_gradients"]


def spawn(target, *args) -> multiprocessing.Process:
    """Start `target(*args)` in a fresh process that ends with this one, however that ends."""
    process = multiprocessing.get_context("spawn").Process(target=_call, args=(target, *args), daemon=True)
    process.start()
    return process


def _call(target, *args) -> None:
    end_with_parent()  # a daemon is ended only by a parent that ends in good order
    target(*args)


def join(rank: int, world: int, meeting: Path) -> None:
    """Enter the group of `world` processes that meet in the file `meeting`."""
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{meeting.resolve()}", rank=rank, world_size=world)


def leave() -> None:
    """Leave the group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def all_gather(local: Tensor) -> Tensor:
    """[b, E] of each process -> [b * world, E]; only the own rows carry a gradient, so summed gradients are exact."""
    if not dist.is_initialized():
        return local
    parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, local.detach().contiguous())
    parts[dist.get_rank()] = local
    return torch.cat(parts)


def broadcast(values: list[float]) -> list[float]:
    """The first process's numbers, in every process."""
    if not dist.is_initialized():
        return values
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(tensor, src=0)
    return tensor.tolist()


def sum_gradients(parameters) -> None:
    """Replace each gradient by its sum over the processes, in one message."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))
