"""Maps brought to another grid, axis by axis with one small matrix each.

The results are those of torch's operators, whose gradients on a GPU are not deterministic (and refused with
`run.deterministic`); products of matrices are.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["enlarge_bicubic", "nearest", "to_grid"]


def to_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, C, H, W] -> [B, C, *grid]: an axis that grows is interpolated linearly with half-pixel centres, one that
    shrinks is averaged over adaptive windows."""
    return _resample(x, grid, _linear_or_mean)


def enlarge_bicubic(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """[..., H, W] -> [..., *grid], bicubic with half-pixel centres."""
    return _resample(x, grid, _bicubic)


def nearest(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, H, W] -> [B, *grid], each the value at the source index floor(place * old / new)."""
    rows, columns = (torch.arange(new, device=x.device) * old // new for new, old in zip(grid, x.shape[1:]))
    return x[:, rows][:, :, columns]


def _resample(x: Tensor, grid: tuple[int, int], matrix) -> Tensor:
    # tracing gives tensors for sizes, of which no two are the same key of a cache
    height, width, grid = int(x.shape[-2]), int(x.shape[-1]), (int(grid[0]), int(grid[1]))
    if grid[0] != height:
        x = matrix(height, grid[0]).to(x, non_blocking=True).T @ x
    if grid[1] != width:
        x = x @ matrix(width, grid[1]).to(x, non_blocking=True)
    return x


@lru_cache(maxsize=64)
def _linear_or_mean(size: int, new: int) -> Tensor:
    """[size, new]; each column holds the shares of the old places in a new one."""
    each = torch.eye(size, dtype=torch.float64)[None]
    if new < size:
        return F.adaptive_avg_pool1d(each, new)[0]
    return F.interpolate(each, size=new, mode="linear", align_corners=False)[0]


@lru_cache(maxsize=64)
def _bicubic(size: int, new: int) -> Tensor:
    each = torch.eye(size, dtype=torch.float64)[None, None]
    return F.interpolate(each, size=(size, new), mode="bicubic", align_corners=False)[0, 0]
