"""Sheets of pictures: a row for each image, cells beside each other, one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["draw_sheet", "heat", "overlaid", "pixels", "resized", "to_unit_range"]


def pixels(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """[N, H, W, 3] in [0, 1] of normalised images [N, 3, H, W]."""
    shift, scale = (torch.tensor(values)[:, None, None] for values in (mean, std))
    return (images * scale + shift).clamp(0, 1).permute(0, 2, 3, 1)


def to_unit_range(maps: Tensor) -> Tensor:
    """Each map of [..., h, w] stretched to [0, 1]; a map that is the same everywhere becomes 0."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def resized(maps: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Maps [N, R, h, w] at `size` (height, width); `mode` is bilinear or nearest."""
    corners = {"align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(maps.float(), size, mode=mode, **corners)


def heat(maps: Tensor) -> Tensor:
    """Colours [..., h, w, 3] of maps [..., h, w] in [0, 1]."""
    from matplotlib import colormaps

    return torch.from_numpy(colormaps["inferno"](maps.numpy())[..., :3]).float()


def overlaid(pictures: Tensor, maps: Tensor) -> Tensor:
    """Maps [N, R, H, W] in [0, 1] as heat over pictures [N, H, W, 3]: [N, R, H, W, 3].

    Where a map is low the picture is dimmed and stays visible, where it is high the colour covers most of it.
    """
    share = (0.35 + 0.35 * maps)[..., None]
    return (1 - share) * pictures[:, None] + share * heat(maps)


def draw_sheet(cells: Tensor, titles: Sequence[str], file: Path) -> None:
    """Write a PNG with a row for each image.

    Args:
        cells: [N, K, H, W, 3] in [0, 1].
        titles: of the K columns.
    """
    from matplotlib.figure import Figure

    count, columns, height, width = cells.shape[:4]
    figure = Figure(figsize=(1.1 * columns, 1.1 * count * height / width + 0.4), layout="constrained")
    axes = figure.subplots(count, columns, squeeze=False)
    for row, line in zip(axes, cells):
        for axis, cell in zip(row, line):
            axis.imshow(cell.numpy())
            axis.set_axis_off()
    for axis, title in zip(axes[0], titles):
        axis.set_title(title.replace(" ", "\n"), fontsize=7)
    figure.savefig(file, format="png", dpi=150)
