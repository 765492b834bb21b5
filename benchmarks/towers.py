"""Each kind of image tower beside CLIP's ViT-B/16: what a training step costs, in time and memory."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

from benchmarks.comparison import Comparison
from occplug.utils.measuring import measured

__all__ = ["TOWERS", "tower_step"]

# name -> backbone and its height x width
TOWERS = {
    "personvit_b": ("vit_b16", (256, 128)),
    "personvit_s": ("vit_s16", (256, 128)),
    "solider_t": ("solider_swin_t", (384, 128)),
    "solider_b": ("solider_swin_b", (384, 128)),
    "clip_l14": ("clip_vit_l14", (252, 126)),
    "eva02": ("eva02_clip_b16", (256, 128)),
}
PATCH = {"clip_vit_l14": 14, "clip_vit_tiny": 8, "vit_mini": 8}
SMALL = {"vit": "vit_mini", "solider": "solider_swin_mini"}  # what stands for a tower in a quick run, by its first word


def tower_step(name: str) -> Callable[[bool], Comparison]:
    """The benchmark of one of TOWERS."""
    return functools.partial(_compare, name)


def _compare(name: str, quick: bool) -> Comparison:
    batch, repeats = (4, 1) if quick else (8, 3)
    backbone, size = TOWERS[name]
    clip, usual = ("clip_vit_tiny", (128, 64)) if quick else ("clip_vit_b16", (256, 128))
    if quick:
        backbone, size = SMALL.get(backbone.split("_")[0], clip), usual
    plain = measured(_step, clip, usual, batch, repeats=repeats)
    other = measured(_step, backbone, size, batch, repeats=repeats)
    return Comparison(
        f"{name}: one training step of {backbone} at {size[0]}x{size[1]} (random weights), batch {batch}",
        f"{clip} at {usual[0]}x{usual[1]}",
        plain,
        other,
        f"cost of the tower: x{other.cpu / plain.cpu:.3g}",
    )


def _step(backbone: str, size: tuple[int, int], batch: int) -> Callable:
    from occplug.registry import BACKBONES, build

    torch.manual_seed(0)
    stride = {"stride": PATCH.get(backbone, 16)}
    tower = build(BACKBONES, backbone, image_size=size, **stride).train()
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))
    parameters = list(tower.parameters())
    optimizer = torch.optim.SGD(parameters, lr=4e-4, momentum=0.9)

    def step() -> float:
        optimizer.zero_grad()
        loss = tower(images).feature.square().mean()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step
