"""Position embeddings of image towers: patch grids, and fitting a stored embedding to another grid."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from occplug.errors import ConfigError

__all__ = ["bound_grid", "patch_grid", "resize_positions", "stored_grid"]


def patch_grid(image_size: tuple[int, int], patch: int, stride: int) -> tuple[int, int]:
    """Rows and columns of patches of `patch` pixels, `stride` apart, in an image of (height, width) pixels.

    Raises:
        ConfigError: an image smaller than a patch, or a stride outside 1 to `patch`.
    """
    if not 1 <= stride <= patch:
        raise ConfigError(
            f"patches of {patch} pixels need a stride from 1 to {patch}, not {stride} (backbone.stride; of a saliency "
            "net method.saliency.stride)"
        )
    if min(image_size) < patch:
        height, width = image_size
        raise ConfigError(f"data.height x data.width is {height}x{width}, smaller than a patch of {patch} pixels")
    rows, columns = ((size - patch) // stride + 1 for size in image_size)
    return rows, columns


def bound_grid(grid: tuple[int, int], stride: str = "backbone.stride") -> dict[str, str]:
    """`grid` as `Method.bound_to` names it: 24 x 8 position embeddings fit 16 x 12 places, and mean nothing there."""
    return {f"data.height, data.width and {stride}": "for a grid of {} x {}".format(*grid)}


def stored_grid(rows: int, candidates: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The grid of a position embedding with `rows` rows, the first of them the class token's.

    The first of `candidates` with that number of patches, else a square, else None.
    """
    patches = rows - 1
    side = math.isqrt(max(patches, 0))
    fitting = [(rows, columns) for rows, columns in [*candidates, (side, side)] if rows * columns == patches > 0]
    return fitting[0] if fitting else None


def resize_positions(positions: Tensor, stored: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """`positions` [1 + h0*w0, C] of the grid `stored` (h0, w0), fitted to `grid` (h, w): [1 + h*w, C].

    Row 0 (class token) is kept; the others are resized bilinearly with half-pixel centres and *without* antialiasing,
    as CLIP-ReID and its kin do. open_clip's own resize (bicubic, antialiased) gives other values: rms 0.1 to 0.3.
    """
    if tuple(stored) == tuple(grid):
        return positions.clone()
    image = positions[1:].reshape(1, *stored, -1).permute(0, 3, 1, 2)  # [1, C, h0, w0]
    image = F.interpolate(image.float(), size=tuple(grid), mode="bilinear", align_corners=False, antialias=False)
    patches = image.flatten(2)[0].T.to(positions.dtype)  # [h*w, C]
    return torch.cat([positions[:1], patches])
