"""Checks of `tools/gpu_check.py`: results on a device against those of plain code there or on the CPU.

A check is a function from the device and a backend of `torch.compile` to {"name", "result", "passed"}.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from occplug.config import default_config
from occplug.distributed import Splitter, current_ranks
from occplug.distributed.layers import normalised
from occplug.distributed.split import Draws, Part, Plan, SplitImages
from occplug.engine.speeding import compiled, fused
from occplug.method import build_method
from occplug.stages import optimiser
from occplug.transforms import build_pipeline

__all__ = ["CHECKS"]

NEAR = 1e-4  # relative, in float32


def _method(device: torch.device):
    torch.manual_seed(0)
    cfg = default_config("clip_reid", "clip_vit_tiny", ["backbone.weights", "none"])
    images = torch.randn(6, 3, cfg.data.height, cfg.data.width).to(device)
    return build_method(cfg, 5, 2, pretrained=False).to(device).eval(), images


def _said(name: str, difference: float, most: float) -> dict:
    return {"name": name, "result": f"largest relative difference {difference:.1e}", "passed": difference <= most}


def _difference(found: list, expected: list) -> float:
    pairs = zip(found, expected)
    return max(float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in pairs)


def batches(device: torch.device, backend: str) -> dict:
    """Normalised and erased on the device, against the data loader's."""
    pipeline = build_pipeline(["random_erase_pixel"], 64, 32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    pixels = torch.randint(0, 256, (32, 3, 64, 32), dtype=torch.uint8)
    torch.manual_seed(1)
    expected = pipeline.per_batch(pixels)
    torch.manual_seed(1)
    found = pipeline.per_batch.deferred(pixels)[0].to(device).cpu()
    same = torch.equal(found, expected)
    return {"name": "batches finished on the device", "result": "equal bits" if same else "other bits", "passed": same}


def fused_optimizer(device: torch.device, backend: str) -> dict:
    """20 steps of fused against plain Adam."""
    ends = []
    for is_fused in (False, True):
        torch.manual_seed(0)
        weight = nn.Parameter(torch.randn(1000, device=device))
        optimizer = optimiser("adam")([{"params": [weight], "lr": 1e-2, "weight_decay": 1e-4}])
        optimizer = fused(optimizer) if is_fused else optimizer
        for _ in range(20):
            weight.grad = torch.randn(1000).to(device)
            optimizer.step()
        ends.append(weight.detach())
    return _said("fused optimiser", _difference(ends[1:], ends[:1]), NEAR)


def compiled_tower(device: torch.device, backend: str) -> dict:
    """Embeddings of a compiled tower against the plain one's."""
    method, images = _method(device)
    expected = method.embed(images).vector
    with compiled(method, backend=backend):
        found = method.embed(images).vector
    return _said("compiled tower", _difference([found], [expected]), NEAR)


def micro_batches(device: torch.device, backend: str) -> dict:
    """Gradients in micro-batches of two against the whole batch's."""
    method, images = _method(device)
    gradients = []
    for micro in (0, 2):
        method.zero_grad()
        splitter = Splitter(current_ranks(), micro)
        given = SplitImages(images, Plan(current_ranks(), [0, len(images)], micro)) if micro else images
        with splitter.installed(method), splitter.step():
            method.features(given).vector.square().sum().backward()
        gradients.append([p.grad.clone() for p in method.backbone.parameters() if p.grad is not None])
    whole = [torch.cat([gradient.flatten() for gradient in side]) for side in gradients]
    return _said("micro-batches", _difference(whole[1:], whole[:1]), NEAR)


@contextlib.contextmanager
def _group_of_one(device: torch.device) -> Iterator[str]:
    """A process group of this process; gives what it exchanges by: nccl on a GPU."""
    how = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(how, init_method=f"file://{Path(folder, 'store')}", rank=0, world_size=1)
        try:
            yield how
        finally:
            dist.destroy_process_group()


def exchange(device: torch.device, backend: str) -> dict:
    """Sums, gathers and broadcasts of a group of one process, by nccl on a GPU."""
    with _group_of_one(device) as how:
        values = torch.randn(4, 3, device=device)
        found = [values.clone(), values.clone(), torch.empty_like(values)]
        dist.all_reduce(found[0])
        dist.broadcast(found[1], src=0)
        dist.all_gather([found[2]], values)
        same = all(torch.equal(each, values) for each in found)
    return {"name": f"exchange by {how}, one process", "result": "equal" if same else "other values", "passed": same}


def batch_norm(device: torch.device, backend: str) -> dict:
    """Outputs, gradients and running statistics of batch norm over all ranks, here one, against torch's own."""
    sides = []
    with _group_of_one(device):
        for over_ranks in (False, True):
            torch.manual_seed(0)
            images = torch.randn(6, 8, 5, 3).to(device).requires_grad_()
            module = nn.BatchNorm2d(8).to(device)
            part = Part(Plan(current_ranks(), [0, 6]), slice(0, 6), Draws(device, ""))
            outputs = normalised(module, images, part) if over_ranks else module(images)
            outputs.pow(3).sum().backward()
            sides.append([outputs.detach(), images.grad, module.weight.grad, module.bias.grad, module.running_var])
    return _said("batch norm over all ranks", _difference(sides[1], sides[0]), NEAR)


CHECKS: list[Callable[[torch.device, str], dict]] = [
    batches,
    fused_optimizer,
    compiled_tower,
    micro_batches,
    exchange,
    batch_norm,
]
