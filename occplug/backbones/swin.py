"""SOLIDER's Swin transformer: mmdetection's arithmetic, with a semantic controller between the stages.

Chen et al., "Beyond Appearance: a Semantic Controllable Self-Supervised Learning Framework for Human-Centric Visual
Tasks", CVPR 2023, arXiv 2303.17602; Liu et al., "Swin Transformer", arXiv 2103.14030. The parameters have SOLIDER's own
names. timm's Swin is another function: it rolls before it pads, shrinks windows on small maps and orders the merged
patches otherwise, so blocks, merging and stages are written here; windows and their index of positions are timm's. Its
window attention computes the same as ours and repeats the mask for every image and head.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.swin_transformer import get_relative_position_index, window_partition, window_reverse
from torch import Tensor, nn

from occplug.backbones.features import VisionFeatures
from occplug.backbones.official import read_official
from occplug.backbones.position import bound_grid
from occplug.backbones.tower import Edits, Tower, map_to_tokens, tokens_to_map
from occplug.errors import CheckpointError, ConfigError
from occplug.registry import BACKBONES
from occplug.utils.files import user_path

__all__ = ["SIZES", "Swin"]

_log = logging.getLogger(__name__)
WINDOW, SHIFT = 7, 3  # tokens; odd blocks shift by 3, also where one window covers the map
PATCH = 4  # pixels
MASKED = -100.0  # added to the logits between regions that the roll has brought together
MLP_RATIO = 4
SIZES: dict[str, dict[str, Any]] = {
    "solider_swin_t": {"width": 96, "depths": (2, 2, 6, 2), "heads": (3, 6, 12, 24)},
    "solider_swin_s": {"width": 96, "depths": (2, 2, 18, 2), "heads": (3, 6, 12, 24)},
    "solider_swin_b": {"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)},
    "solider_swin_mini": {"width": 16, "depths": (2, 2, 2, 2), "heads": (1, 2, 4, 8)},
}
EMBEDDED = Path(__file__).resolve().parents[1] / "assets" / "solider_swin_mini.safetensors"
NAMED = ("openai", "timm", "embedded")  # sources of other towers
# The authors' files are on Google Drive, which a plain download cannot rely on
DRIVE = {
    "solider_swin_t": "12UyPVFmjoMVpQLHN07tNh4liHUmyDqg8",
    "solider_swin_s": "1oyEgASqDHc7YUPsQUMxuo2kBZyi2Tzfv",
    "solider_swin_b": "1uh7tO34tMf73MJfFqyFEGx42UBktTbZU",
}


class Swin(Tower):
    """The tower of SOLIDER; random weights until :func:`load_initial` fills them.

    Level n (0 to 3) is the normalised output of stage n + 1, before it is merged for the next; `VisionFeatures.blocks`
    numbers them 1 to 4, as maps. The features are means: `last` of level 2, `feature` and `projected` of level 3.

    Args:
        arch: width of stage 1, and depths and heads of the four stages.
        image_size: (height, width) of the images in pixels; sides that are no multiple of 4 are padded with zeros.
        stride: must be 16 or None; a Swin's strides are 4, 8, 16 and 32.
        num_cameras: must be 0; a camera embedding needs a class token.
        drop_path: rate of stochastic depth at the last block; it grows linearly from 0 at the first.
        semantic_weight: w of the controller, 0 (appearance) to 1 (semantics). 0.2 in the published ReID results; no
            file tells.

    Raises:
        ConfigError: another stride, or cameras.
    """

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    num_prefix = 0

    def __init__(
        self,
        arch: dict,
        image_size: tuple[int, int] = (256, 128),
        stride: int | None = 16,
        num_cameras: int = 0,
        sie_coefficient: float = 1.0,
        drop_path: float = 0.0,
        semantic_weight: float = 0.2,
    ):
        super().__init__()
        if stride not in (None, 16):
            raise ConfigError(f"backbone.stride is {stride}, but a Swin has fixed strides (4 to 32); leave it at 16")
        if num_cameras:
            raise ConfigError("backbone.sie_camera is True, but a Swin has no class token for a camera embedding")
        self.arch, self.name, self.semantic_weight = arch, arch.get("name", ""), semantic_weight
        self.image_size = (image_size[0], image_size[1])
        grids = [(math.ceil(image_size[0] / PATCH), math.ceil(image_size[1] / PATCH))]
        for _ in range(3):
            grids.append((math.ceil(grids[-1][0] / 2), math.ceil(grids[-1][1] / 2)))
        self.grids = tuple(grids)
        self.visual = _Layers(arch["width"], arch["depths"], arch["heads"], drop_path, grids)
        self.widths = (self.visual.widths[2], self.visual.widths[3], self.visual.widths[3])

    @property
    def grid(self) -> tuple[int, int]:  # type: ignore[override]
        """Rows and columns of level 3."""
        return self.grids[3]

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of the embedded patches, which `change` acts on."""
        return self.grids[0]

    @property
    def level_grid(self) -> tuple[int, int]:
        """Rows and columns of level 2, to which masks bring all levels."""
        return self.grids[2]

    @property
    def level_widths(self) -> dict[int, int]:  # type: ignore[override]
        """Level, numbered from 1 as in `blocks` -> channels."""
        return dict(enumerate(self.visual.widths, start=1))

    @property
    def depth(self) -> int:
        """Number of levels."""
        return len(self.grids)

    @property
    def point_widths(self) -> dict[int, int]:  # type: ignore[override]
        """0: the embedded patches; 1 to 3: the input of the next stage."""
        return dict(enumerate(self.visual.widths))

    @property
    def part_patch(self) -> tuple[int, int]:
        """Pixels of a cell of level 2, and from cell to cell."""
        return 4 * PATCH, 4 * PATCH

    def part_tokens(self, features: VisionFeatures) -> Tensor:
        """Level 2 row by row, [B, N, C]: level 3 is too coarse for parts of a body."""
        return map_to_tokens(features.blocks[3])

    @property
    def part_levels(self) -> tuple[int, ...]:
        """The blocks that :meth:`part_tokens` reads."""
        return (3,)

    def bound_to(self) -> dict[str, str]:
        """The image's grid, and the semantic weight, which is in no tensor."""
        return {**bound_grid(self.grid), "backbone.semantic_weight": str(self.semantic_weight)}

    def untrained(self, levels: Collection[int] = ()) -> list[str]:
        """The norms of levels that only `blocks` and `last` read, less those of `levels`."""
        return [rf"visual\.norm{n - 1}\..*" for n in (1, 2, 3) if n not in levels]

    def embed_patches(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> patches [B, N, C] after the embedding's norm, row by row."""
        height, width = (side * PATCH for side in self.patch_grid)
        images = F.pad(images, (0, width - images.shape[3], 0, height - images.shape[2]))
        return self.visual.patch_embed(images)

    def forward(
        self,
        images: Tensor,
        camids: Tensor | None = None,
        *,
        tokens: bool = False,
        blocks: Collection[int] = (),
        attention: Collection[int] = (),
        class_scores: bool = False,
        change: Callable[[Tensor], Tensor] | None = None,
        edits: Edits | None = None,
    ) -> VisionFeatures:
        """Features of `images` [B, 3, H, W] (normalised). `camids` is not used.

        Args:
            tokens: also return the cells of level 3.
            blocks: numbers (1 to 4) of the levels that are wanted, as maps [B, C, h, w].
            attention, class_scores: must be left out.
            change: applied to the embedded patches [B, N, C], after the embedding's norm.
            edits: by number, applied to the map that enters stage 1 (0), or stage 2, 3 or 4 (1, 2, 3).

        Raises:
            ValueError: a level outside 1 to 4, attention or class scores asked for, or images of another size.
        """
        edits = edits or {}
        self._check_numbers(blocks, attention, class_scores, edits)
        self.check_size(images)
        patches = self.embed_patches(images)
        x = patches if change is None else change(patches)
        levels = {}
        for number, stage in enumerate(self.visual.stages):
            if number in edits:
                x = map_to_tokens(edits[number](tokens_to_map(x, self.grids[number])))
            y, x = stage(x)
            if number >= 2 or number + 1 in blocks:
                levels[number] = getattr(self.visual, f"norm{number}")(y)
            if x is not None:
                x = self.visual.controlled(x, number, self.semantic_weight)
        feature = levels[3].mean(dim=1)
        return VisionFeatures(
            last=levels[2].mean(dim=1),
            feature=feature,
            projected=feature,
            grid=self.grid,
            tokens=levels[3] if tokens else None,
            projected_tokens=levels[3] if tokens else None,
            blocks={n: tokens_to_map(levels[n - 1], self.grids[n - 1]) for n in blocks},
        )

    def load(self, source: str) -> None:
        """Fill the tower from a SOLIDER file: pre-trained, or fine-tuned, whose neck is not read.

        Raises:
            CheckpointError: no such file, damaged, or tensors that do not fit; a file that does not fit changes
                nothing.
            ConfigError: a named source, which a Swin does not have.
        """
        name = self.name
        cure = "use 'none', or a file in SOLIDER's layout"
        if name in DRIVE:
            cure = f"fetch the file {DRIVE[name]} of Google Drive and set backbone.weights to where you put it"
        if source == "embedded" and name == "solider_swin_mini":
            source = str(EMBEDDED)
        if source in NAMED:
            raise ConfigError(f"backbone.weights is {source!r}, which a SOLIDER Swin does not have; {cure}")
        if not user_path(source).is_file():
            raise CheckpointError(f"backbone.weights is {source!r}: there is no such file; {cure}")
        official = read_official(source)
        official.check_index(position_index())
        official.fill(self.visual, f"SOLIDER's {name or 'Swin'}")
        _log.info("%s: %d tensors read", official.where, len(self.visual.state_dict()))

    @staticmethod
    def _check_numbers(blocks: Collection[int], attention: Collection[int], class_scores: bool, edits: Edits) -> None:
        if set(blocks) - {1, 2, 3, 4}:
            raise ValueError(f"a Swin has levels 1 to 4, asked for {sorted(blocks)}")
        if attention or class_scores:
            raise ValueError("a Swin has no class token, so neither its attention nor its scores can be asked for")
        if edits.keys() - {0, 1, 2, 3}:
            raise ValueError(f"edits of a Swin are at 0 to 3, asked for {sorted(edits)}")


# ---------------------------------------------------------------------- modules, under SOLIDER's names


class _Layers(nn.Module):
    """All that has weights."""

    def __init__(self, width: int, depths, heads, drop_path: float, grids: Sequence[tuple[int, int]]):
        super().__init__()
        self.widths = tuple(width * 2**i for i in range(4))
        self.patch_embed = _PatchEmbedding(width)
        rates = iter(drop_path * block / max(sum(depths) - 1, 1) for block in range(sum(depths)))
        self.stages = nn.ModuleList(
            _Stage(self.widths[i], heads[i], [next(rates) for _ in range(depths[i])], i < 3, grids[i]) for i in range(4)
        )
        for i, channels in enumerate(self.widths):
            self.add_module(f"norm{i}", nn.LayerNorm(channels))
        outs = (*self.widths[1:], self.widths[3])  # the controller of the last stage has no effect, and is in the files
        self.semantic_embed_w = nn.ModuleList(_FixedLinear(2, out) for out in outs)
        self.semantic_embed_b = nn.ModuleList(_FixedLinear(2, out) for out in outs)
        self.apply(_start)

    def controlled(self, x: Tensor, number: int, weight: float) -> Tensor:
        """`x` [B, N, C] after the merging of stage `number` (from 0), under the semantic weight."""
        # made on the device: numbers from here would be waited for
        semantic = torch.stack([torch.full((), share, device=x.device) for share in (weight, 1 - weight)])
        scale = F.softplus(self.semantic_embed_w[number](semantic))
        return (x * scale + self.semantic_embed_b[number](semantic)).to(x.dtype)


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class _FixedLinear(nn.Module):
    """A linear layer that nobody trains, so its tensors are buffers."""

    weight: Tensor
    bias: Tensor

    def __init__(self, into: int, out: int):
        super().__init__()
        self.register_buffer("weight", torch.empty(out, into).uniform_(-(into**-0.5), into**-0.5))
        self.register_buffer("bias", torch.empty(out).uniform_(-(into**-0.5), into**-0.5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class _PatchEmbedding(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.projection = nn.Conv2d(3, width, PATCH, PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(map_to_tokens(self.projection(images)))


class _Stage(nn.Module):
    mask: Tensor

    def __init__(self, width: int, heads: int, rates: list[float], merges: bool, grid: tuple[int, int]):
        super().__init__()
        self.grid = grid
        self.blocks = nn.ModuleList(_Block(width, heads, number % 2 == 1, rate) for number, rate in enumerate(rates))
        self.downsample = _Merging(width) if merges else None
        self.register_buffer("mask", _shift_mask(grid), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Output of the blocks [B, h w, C], and what goes into the next stage."""
        for block in self.blocks:
            x = block(x, self.grid, self.mask)
        return x, None if self.downsample is None else self.downsample(x, self.grid)


class _Merging(nn.Module):
    """2 x 2 cells become one, their channels in the order of unfold: c * 4 + row * 2 + column."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        cells = F.pad(tokens_to_map(x, grid), (0, grid[1] % 2, 0, grid[0] % 2))
        return self.reduction(self.norm(F.pixel_unshuffle(cells, 2).flatten(2).transpose(1, 2)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, is_shifted: bool, rate: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = _ShiftedWindows(width, heads, is_shifted)
        self.ffn = _FeedForward(width)
        self.drop_path = DropPath(rate) if rate else nn.Identity()

    def forward(self, x: Tensor, grid: tuple[int, int], mask: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), grid, mask))
        return x + self.drop_path(self.ffn(self.norm2(x)))


class _FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        inner = MLP_RATIO * width
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(width, inner), nn.GELU()), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class _ShiftedWindows(nn.Module):
    """Attention within windows of the map, which is padded at the bottom and right first and rolled then."""

    def __init__(self, width: int, heads: int, is_shifted: bool):
        super().__init__()
        self.w_msa = _WindowAttention(width, heads)
        self.is_shifted = is_shifted

    def forward(self, x: Tensor, grid: tuple[int, int], mask: Tensor) -> Tensor:
        """The map `x` [B, h * w, C] of `grid` (h, w) after attention, in the same form; `mask` where it is shifted."""
        height, width = grid
        padded = _padded(grid)
        cells = x.unflatten(1, grid)  # [B, h, w, C]
        cells = F.pad(cells, (0, 0, 0, padded[1] - width, 0, padded[0] - height))
        if self.is_shifted:
            cells = cells.roll((-SHIFT, -SHIFT), dims=(1, 2))
        mixed = self.w_msa(_windows(cells), mask if self.is_shifted else None)
        cells = window_reverse(mixed.flatten(0, 1), (WINDOW, WINDOW), *padded)
        if self.is_shifted:
            cells = cells.roll((SHIFT, SHIFT), dims=(1, 2))
        return cells[:, :height, :width].flatten(1, 2)


class _WindowAttention(nn.Module):
    relative_position_index: Tensor

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * WINDOW - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", position_index(), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, n, T, C] of n windows of T tokens -> the same shape; `mask` [n, 1, T, T] is added to the logits."""
        query, key, value = self.qkv(x).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        table = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = table.unflatten(0, self.relative_position_index.shape).permute(2, 0, 1)  # [heads, T, T]
        bias = bias.to(query.dtype) if mask is None else (bias + mask).to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)  # [B, n, heads, T, c]
        return self.proj(mixed.transpose(2, 3).flatten(3))


def position_index() -> Tensor:
    """[T, T] row of the bias table for query and key of a window: (dy + 6) * 13 + dx + 6."""
    return get_relative_position_index(WINDOW, WINDOW)


def _padded(grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of whole windows."""
    return -(-grid[0] // WINDOW) * WINDOW, -(-grid[1] // WINDOW) * WINDOW


def _shift_mask(grid: tuple[int, int]) -> Tensor:
    """[n, 1, T, T]: -100 between cells that are neighbours in a window only because the map was rolled."""
    regions = torch.zeros(1, *_padded(grid), 1)
    bounds = [(0, -WINDOW), (-WINDOW, -SHIFT), (-SHIFT, None)]
    for number, (rows, columns) in enumerate((r, c) for r in bounds for c in bounds):
        regions[:, slice(*rows), slice(*columns)] = number
    windows = _windows(regions)[0, :, :, 0]  # [n, T]
    return (windows[:, None, :] != windows[:, :, None]).float()[:, None] * MASKED


def _windows(cells: Tensor) -> Tensor:
    """[B, h, w, C] -> [B, windows, T, C]."""
    number = cells.shape[1] // WINDOW * (cells.shape[2] // WINDOW)
    return window_partition(cells, (WINDOW, WINDOW)).unflatten(0, (-1, number)).flatten(2, 3)


def _registered(name: str) -> None:
    def build(**options: Any) -> Swin:
        if name == "solider_swin_mini":
            options = {"image_size": (128, 64), **options}
        return Swin({"name": name, **SIZES[name]}, **options)

    build.__name__ = name
    build.__doc__ = f"SOLIDER's {name.removeprefix('solider_')}; `options` as :class:`Swin`'s."
    build.options = {"drop_path": "drop_path", "semantic_weight": "semantic_weight"}  # type: ignore[attr-defined]
    build.gives = frozenset({"patches", "levels", "tokens"})  # type: ignore[attr-defined]
    BACKBONES.register_module(name, module=build)


for _name in SIZES:
    _registered(_name)
