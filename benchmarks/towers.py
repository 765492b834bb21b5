"""Each kind of image tower beside CLIP's ViT-B/16: what a training step costs, in time and memory."""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.comparison import Rows
from occplug.utils.measuring import measured

__all__ = ["tower_step", "towers"]

# backbone, height and width of its images, patch; the first is what the others are compared with
TOWERS = [
    ("clip_vit_b16", (256, 128), 16),
    ("clip_vit_l14", (252, 126), 14),
    ("eva02_clip_b16", (256, 128), 16),
    ("vit_b16", (256, 128), 16),
    ("vit_s16", (256, 128), 16),
    ("solider_swin_t", (384, 128), 16),
    ("solider_swin_s", (384, 128), 16),
    ("solider_swin_b", (384, 128), 16),
    ("timm:vit_base_patch14_dinov2.lvd142m", (252, 126), 14),
    ("timm:vit_small_patch16_dinov3.lvd1689m", (256, 128), 16),
    ("timm:vit_base_patch16_dinov3.lvd1689m", (256, 128), 16),
]
QUICK = [("clip_vit_tiny", (128, 64), 8), ("vit_mini", (128, 64), 8), ("solider_swin_mini", (128, 64), 16)]


def towers(quick: bool) -> Rows:
    """One training step of every tower, beside the first's."""
    batch, tried = 4, QUICK if quick else TOWERS
    figures = [measured(tower_step, *tower, batch, repeats=1) for tower in tried]
    first, rows = figures[0], []
    for (backbone, (height, width), _), found in zip(tried, figures, strict=True):
        ratios = [f"x{found.cpu / first.cpu:.2f}", f"x{found.memory / first.memory:.2f}" if first.memory else "-"]
        size, millions = f"{height}x{width}", f"{found.output:.1f}"
        rows.append([backbone, size, millions, f"{found.cpu:.3g}", f"{found.memory:,.0f}", *ratios])
    heads = ("backbone", "image", "M parameters", "CPU s", "memory MiB", "time", "memory")
    note = (
        f"forward, backward and a step of SGD, fp32, random weights; memory is what {batch} images take beside weights "
        f"and gradients, so it grows with the batch; time and memory: as multiples of {tried[0][0]}'s"
    )
    return Rows(f"towers: one training step, batch {batch}", heads, rows, note)


def tower_step(backbone: str, size: tuple[int, int], patch: int, batch: int) -> Callable[[], float]:
    """One training step of a tower, which returns its millions of parameters."""
    from occplug.registry import BACKBONES, build

    torch.manual_seed(0)
    tower = build(BACKBONES, backbone, image_size=size, stride=patch).train()
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))
    parameters = list(tower.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)  # held before the work begins: what is measured is of the images
    optimizer = torch.optim.SGD(parameters, lr=4e-4)

    def step() -> float:
        optimizer.zero_grad(set_to_none=False)
        tower(images).feature.square().mean().backward()
        optimizer.step()
        return sum(parameter.numel() for parameter in parameters) / 1e6

    return step
