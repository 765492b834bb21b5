"""From part maps to part labels: resampling, grouping, background, softmax (ProFD, arXiv 2409.20081; BPBReID).

The plain way resizes all 36 channels to the image, moves them with it, groups them, and keeps every fourth row and
column. Here a map of *places* moves with the image instead: at each position, which pixel of the untransformed image is
shown there. Only the places that survive are then resampled and grouped, which gives the same numbers in a fraction of
the work, whatever the transforms are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors

__all__ = ["CELL", "group_channels", "part_labels", "places", "sample_maps"]

CELL = 4  # image pixels per row and column of the labels
_THRESHOLD = 0.5  # where no part is as sure as this, it is background
_GAIN = 15.0  # of the softmax


def places(height: int, width: int) -> tv_tensors.Mask:
    """int32 [1, height, width]: 1 + row * width + column. 0 is left for what is filled or erased."""
    return tv_tensors.Mask(torch.arange(1, height * width + 1, dtype=torch.int32).view(1, height, width))


@functools.lru_cache(maxsize=64)
def _weights(size: int, resized: int, interpolation: str) -> Tensor:
    """[resized, size]: what torch's resize does to one axis (pixel centres, no antialiasing), as a matrix."""
    corners = {} if interpolation == "nearest" else {"align_corners": False}
    identity = torch.eye(size)[None, None]
    return F.interpolate(identity, (resized, size), mode=interpolation, **corners)[0, 0]


@functools.lru_cache(maxsize=64)
def _nearest(size: int, resized: int) -> Tensor:
    """[resized]: which entry of an axis torch's nearest resize takes."""
    return _weights(size, resized, "nearest").argmax(dim=1)


def sample_maps(maps: Tensor, where: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """`maps` resized to (height, width), at some places only.

    Args:
        maps: [C, h, w] float.
        where: integers [a, b] as `places` numbers them; 0 gives 0.
        interpolation: "nearest", "bilinear" or "bicubic".
    Returns:
        [C, a, b].
    """
    outside = where == 0
    index = (where.long() - 1).clamp_min(0)  # [a, b]
    axes = list(zip(maps.shape[1:], (height, width)))
    if interpolation == "nearest" or maps.shape[1:] == (height, width):
        rows_of, columns_of = (_nearest(*axis) for axis in axes)
        return maps[:, rows_of[index // width], columns_of[index % width]].masked_fill_(outside, 0)
    rows_of, columns_of = (_weights(*axis, interpolation) for axis in axes)
    # flips, crops and resizes move whole rows and columns; then two small products do
    rows = (index // width).masked_fill(outside, 0).amax(dim=1)  # [a]
    columns = (index % width).masked_fill(outside, 0).amax(dim=0)  # [b]
    if ((rows[:, None] * width + columns == index) | outside).all():
        values = rows_of[rows] @ maps @ columns_of[columns].T  # [C, a, b]
    else:
        values = (rows_of @ maps @ columns_of.T).flatten(1)[:, index]
    return values.masked_fill_(outside, 0)


def group_channels(maps: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """[C, ...] -> [K, ...]: the largest of each group's channels, clamped to [0, 1]."""
    return torch.stack([maps[list(group)].amax(dim=0) for group in groups]).clamp_(0, 1)


def part_labels(parts: Tensor) -> Tensor:
    """Part maps [K, ...] in [0, 1] -> labels m [K + 1, ...] that sum to 1, background first.

    The background is 1 where every part is below 0.5, else 0; then softmax over the channels of 15 times that.
    """
    background = (parts.amax(dim=0, keepdim=True) < _THRESHOLD).to(parts.dtype)
    return (_GAIN * torch.cat([background, parts])).softmax(dim=0)
