"""The hierarchical mask generator of DPM++ (HMG), and DPM's, which is the same with one level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from occplug.backbones.tower import Tower, stream_to_map
from occplug.errors import ConfigError
from occplug.heads.saliency import checked_levels
from occplug.registry import HEADS

__all__ = ["MaskGenerator"]

POOLS = ("max", "mean")


@HEADS.register_module("mask_generator")
class MaskGenerator(nn.Module):
    r"""A mask over feature dimensions from the patches of several blocks.

    DPM++ (arXiv 2605.06637), eq. 20-21, in the form of DPM's official code, for L levels of width C:

        conv 3x3 (L C -> 2 C), BN, ReLU, max pool 2;  conv 3x3 (2 C -> C), BN, ReLU, max pool 2;
        conv 3x3 (C -> C), BN, ReLU, pool over all;  linear (C -> d), sigmoid.

    The linear layer starts at zero, so every mask is 1/2 then, and masked matching is plain cosine matching.

    Args:
        width: C, width of the patches.
        levels: block numbers (from 1), in the order of their channels; empty for DPM's.
        out: d, length of the mask.
        grid: (h, w) of the patches.
        depth: number of blocks of the backbone.
        pool: last pooling, "max" (official code) or "mean" (the paper's text).
        key: config key of the levels, for messages.
        widths: number of a block -> its width; None: all have `width`.
        num_prefix: tokens that stand before the patches in a stream.

    Raises:
        ConfigError: a level that is no block, another pooling, or a grid below 4 x 4.
    """

    def __init__(
        self,
        width: int,
        levels: Sequence[int],
        out: int,
        grid: tuple[int, int],
        depth: int,
        pool: str = "max",
        key: str = "method.mask_levels",
        widths: Mapping[int, int] | None = None,
        num_prefix: int = 1,
    ):
        super().__init__()
        levels = checked_levels(levels, depth, key)
        if pool not in POOLS:
            raise ConfigError(f"method.mask_pool is {pool!r}; there are: {', '.join(POOLS)}")
        if min(grid) < 4:
            raise ConfigError(
                f"the mask generator halves the grid of patches twice, and {grid[0]}x{grid[1]} is below 4x4; enlarge "
                "data.height and data.width, or lower backbone.stride"
            )
        self.levels, self.grid, self.pool, self.num_prefix = levels, (grid[0], grid[1]), pool, num_prefix
        into = sum((widths or {}).get(level, width) for level in levels)
        self.convolutions = nn.Sequential(
            _convolution(into, 2 * width),
            nn.MaxPool2d(2),
            _convolution(2 * width, width),
            nn.MaxPool2d(2),
            _convolution(width, width),
        )
        self.linear = nn.Linear(width, out)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def on(cls, tower: Tower, levels: Sequence[int], out: int, pool: str = "max") -> MaskGenerator:
        """The generator that reads the blocks `levels` of `tower`; other arguments as the class's."""
        return cls(
            tower.widths[1],
            levels,
            out,
            tower.level_grid,
            len(tower.level_widths),
            pool,
            widths=tower.level_widths,
            num_prefix=tower.num_prefix,
        )

    def forward(self, streams: dict[int, Tensor]) -> Tensor:
        """Masks [B, d] in (0, 1) from block outputs by number: streams [B, P + N, C], or maps of any size."""
        levels = [stream_to_map(streams[level], self.grid, self.num_prefix) for level in self.levels]
        maps = self.convolutions(torch.cat(levels, dim=1))  # [B, C, h / 4, w / 4]
        pooled = maps.amax(dim=(2, 3)) if self.pool == "max" else maps.mean(dim=(2, 3))
        return self.linear(pooled).float().sigmoid()


def _convolution(into: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU())
