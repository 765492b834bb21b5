"""The hybrid backbone against CLIP alone, and the operation it adds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.comparison import Comparison
from occplug.utils.measuring import measured

__all__ = ["ska", "wgff"]


def wgff(quick: bool) -> Comparison:
    """A training step of CLIP ViT-B/16 with LSNet-T and its gates, and its forward pass, against CLIP alone."""
    batch = 4 if quick else 8
    plain, hybrid = [
        [measured(_image_step, name, trains, batch, repeats=2 if quick else 3) for trains in (True, False)]
        for name in ("clip_vit_b16", "wgff")
    ]
    training, forward = [(a.cpu, b.cpu) for a, b in zip(plain, hybrid)]
    difference = np.abs(plain[1].output - hybrid[1].output).max()
    return Comparison(
        f"wgff: one training step of ViT-B/16 with LSNet-T at 256x128 (random weights), batch {batch}",
        "ViT-B/16 alone",
        plain[0],
        hybrid[0],
        f"cost of the hybrid: x{training[1] / training[0]:.3g} in training, x{forward[1] / forward[0]:.3g} in the "
        f"forward pass ({forward[0]:.3g} and {forward[1]:.3g} CPU s); features differ by {difference:.1e} at first",
    )


def _image_step(name: str, trains: bool, batch: int) -> Callable:
    """A training step whose output is its loss, or a forward pass whose output is the projected feature."""
    from occplug.registry import BACKBONES, build

    torch.manual_seed(0)
    tower = build(BACKBONES, name, image_size=(256, 128)).train(trains)
    images = torch.randn(batch, 3, 256, 128, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(tower.parameters(), lr=5e-6)

    def step() -> float:
        optimizer.zero_grad()
        features = tower(images)
        loss = sum(feature.square().mean() for feature in (features.last, features.feature, features.projected))
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def forward() -> np.ndarray:
        return tower(images).projected.numpy()

    return step if trains else forward


def ska(quick: bool) -> Comparison:
    """LSNet's small-kernel aggregation, forward and backward, against `F.unfold`."""
    batch = 16 if quick else 64
    theirs = measured(_aggregation, "unfold", batch, repeats=5)
    ours = measured(_aggregation, "occplug", batch, repeats=5)
    difference = max(np.abs(a - b).max() for a, b in zip(theirs.output, ours.output))
    return Comparison(
        f"ska: small-kernel aggregation of 128 channels on a 16x8 map with its gradients, batch {batch}, 10 times",
        "torch, F.unfold",
        theirs,
        ours,
        f"largest difference of output and gradients {difference:.1e}",
    )


def _aggregation(whose: str, batch: int) -> Callable:
    from occplug.backbones.ska import small_kernel_aggregation

    torch.manual_seed(0)
    x, kernels = (
        torch.randn(batch, 128, 16, 8, requires_grad=True),
        torch.randn(batch, 16, 9, 16, 8, requires_grad=True),
    )
    upstream = torch.randn(batch, 128, 16, 8)

    def unfolded(x, kernels):
        columns = F.unfold(x, 3, padding=1).view(batch, 8, 16, 9, 16, 8)
        return (columns * kernels[:, None]).sum(3).flatten(1, 2)

    aggregate = small_kernel_aggregation if whose == "occplug" else unfolded

    def work() -> list[np.ndarray]:
        for _ in range(10):
            out = aggregate(x, kernels)
            grads = torch.autograd.grad(out, [x, kernels], upstream)
        return [t.detach().numpy() for t in (out, *grads)]

    return work
