"""What methods ask of any image tower, and what all vision transformers do alike: from patches through the blocks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from occplug.backbones.features import VisionFeatures
from occplug.backbones.position import bound_grid
from occplug.backbones.resampling import to_grid
from occplug.errors import DataError
from occplug.method import Group

__all__ = [
    "MEAN_CAMERA",
    "CLIPTower",
    "Edits",
    "Tower",
    "TransformerTower",
    "map_to_tokens",
    "stream_to_map",
    "tokens_to_map",
]

# stands for a camera that was not in training: the mean of all rows of the camera embedding
MEAN_CAMERA = -(2**31)
# number of a layer -> function of the map [B, C, h, w] there, whose result goes on in its place
Edits = Mapping[int, Callable[[Tensor], Tensor]]


class Tower(nn.Module):
    """Base of all image towers: images in, :class:`VisionFeatures` out.

    Attributes that a subclass sets:
        image_size: (height, width) of the images in pixels.
        grid: (h, w), rows and columns of patches; h * w = N.
        widths: (C_last, C, E), widths of the feature levels.
        mean, std: constants that pixels are normalised with.
        point_widths: number of a layer -> channels there, for the layers after which an edit reaches the features.
        projection_names: regular expressions for names of parameters that `projected` alone passes.
        num_prefix: tokens that stand before the patches in a stream, the class token among them.
        gives_attention: whether `forward` takes `attention`, numbers of blocks.
        level_widths: number of a block, as `blocks` takes them -> channels.
    """

    name = ""  # of the backbone, where its weights can be named
    projection_names: tuple[str, ...] = ()
    num_prefix = 1
    gives_attention = False
    level_widths: Mapping[int, int]

    image_size: tuple[int, int]
    splits = "images"  # a row of the features depends on one image alone (occplug.distributed)
    grid: tuple[int, int]
    widths: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    point_widths: dict[int, int]

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Rows and columns of the embedded patches, which `change` acts on."""
        return self.grid

    @property
    def level_grid(self) -> tuple[int, int]:
        """Rows and columns that masks bring the outputs of all blocks to."""
        return self.grid

    @property
    def part_levels(self) -> tuple[int, ...]:
        """The blocks that the tokens come from that parts of a body are looked for in; empty: the last."""
        return ()

    def bound_to(self) -> dict[str, str]:
        """What the tensors do not tell and would mean nothing without, as `Method.bound_to`."""
        return bound_grid(self.grid)

    def untrained(self, levels: Collection[int] = ()) -> list[str]:
        """Regular expressions for names of parameters that reach neither `feature` nor the blocks `levels`."""
        return []

    def own_groups(self, weight_decay: float, prefix: str = r"backbone\.") -> list[Group]:
        """Learning rates of parts that do not train at a method's rate, to be put before its groups; none here."""
        return []

    def check_size(self, images: Tensor) -> None:
        """Raise ValueError for images of another size than the tower was built for."""
        if tuple(images.shape[1:]) != (3, *self.image_size):
            raise ValueError(f"images are [B, 3, {self.image_size[0]}, {self.image_size[1]}], got {list(images.shape)}")


class CLIPTower(Tower):
    """A CLIP's image tower alone; a hybrid around one gives its own answers.

    Attributes that a subclass sets:
        arch: sizes of the CLIP, as `architecture` gives them.
        visual: open_clip's image tower, under whose names weights are stored.
        positions_name: of the position embedding in `visual`; stored_grid: (h, w) of the published one.
    """

    arch: dict[str, Any]
    visual: Any
    positions_name: str
    stored_grid: tuple[int, int]

    @property
    def clip(self) -> CLIPTower:
        """The plain CLIP tower: of a hybrid what its CLIP computes alone, here the tower itself."""
        return self

    def load_beside_clip(self) -> None:
        """Read the initial weights of what runs beside the CLIP tower; nothing does here."""


class TransformerTower(Tower):
    """Base of the vision transformers; a subclass states how it embeds, what its blocks are and how it ends.

    Attributes that a subclass sets:
        camera_embedding: parameter [cameras, C], or None.
        patch, stride: pixels of a patch, and from patch to patch.
    """

    gives_attention = True
    camera_embedding: nn.Parameter | None
    patch: int
    stride: int

    # ------------------------------------------------------------------ what a subclass states

    @property
    @abstractmethod
    def layers(self) -> Sequence[Any]:
        """The blocks, in order."""

    @abstractmethod
    def embed_patches(self, images: Tensor) -> Tensor:
        """[B, N, C] of images [B, 3, H, W]: the patch convolution alone."""

    @abstractmethod
    def add_positions(self, patches: Tensor, camids: Tensor | None) -> Tensor:
        """Input of block 1, [B, 1 + N, C]: patches [B, N, C] with class token, position and camera."""

    @abstractmethod
    def finish(self, previous: Tensor, x: Tensor, tokens: bool = False) -> VisionFeatures:
        """Features from the streams after the last block but one (`previous`) and after the last block (`x`)."""

    @abstractmethod
    def run_block(self, block: Any, x: Tensor) -> Tensor:
        """`block(x)` [B, L, C]."""

    @abstractmethod
    def class_row(self, block: Any, x: Tensor) -> Tensor:
        """Row 0 of `block(x)`, [B, 1, C]: all tokens are keys and values, but only the class token queries."""

    @abstractmethod
    def block_and_attention(self, block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """`block(x)` [B, L, C] and its attention weights [B, heads, L, L]."""

    @abstractmethod
    def class_queries(self, block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """The class token's query [B, heads, 1, c] and the patches' keys [B, heads, N, c] in `block` on stream `x`."""

    # ------------------------------------------------------------------ what all of them do

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.layers)

    @property
    def level_widths(self) -> dict[int, int]:  # type: ignore[override]
        """Number of a block -> channels."""
        return dict.fromkeys(range(1, self.depth + 1), self.widths[1])

    @property
    def part_patch(self) -> tuple[int, int]:
        """Pixels of a patch, and from patch to patch."""
        return self.patch, self.stride

    def part_tokens(self, features: VisionFeatures) -> Tensor:
        """The tokens that parts of a body are looked for in, [B, N, C], on `level_grid`."""
        assert features.tokens is not None, "the tower was asked for tokens"
        return features.tokens

    @property
    def point_widths(self) -> dict[int, int]:  # type: ignore[override]
        """Blocks (0: their input) whose patches a later block hands to the class token -> width."""
        return dict.fromkeys(range(self.depth), self.widths[1])

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
        """Features of `images` [B, 3, H, W] (normalised) from cameras `camids` [B] (0-based, None: no camera added).

        If neither patch tokens nor the last block are asked for, the last block computes the class token alone: no
        other token of that block reaches the features, so values and gradients are the same.

        Args:
            tokens: also return the patches of the last level.
            blocks: numbers (from 1) of the blocks whose output is wanted.
            attention: numbers of the blocks whose attention weights are wanted.
            class_scores: also return the last block's scores of the class token for the patches.
            change: applied to the embedded patches [B, N, C] before class token, position and camera join them.
            edits: by the numbers of `point_widths`, applied to the patches of that stream; the class token is left
                alone.

        Raises:
            ValueError: a block number outside 1 to `depth`, an edit without effect, or images of another size than the
                tower was built for.
            DataError: a camera the embedding has no row for.
        """
        wanted, edits = {*blocks, *attention}, edits or {}
        self._check_numbers(wanted, edits)
        class_row_only = not tokens and self.depth not in wanted
        streams, maps = {}, {}
        x = previous = self._edited(self.embed_tokens(images, camids, change), edits.get(0))  # [B, 1 + N, C]
        for number, block in enumerate(self.layers, start=1):
            previous = x
            if number in attention:
                x, maps[number] = self.block_and_attention(block, x)
            elif number == self.depth and class_row_only:
                x = self.class_row(block, x)  # [B, 1, C]
            else:
                x = self.run_block(block, x)
            x = self._edited(x, edits.get(number))
            if number in blocks:
                streams[number] = x
        features = self.finish(previous, x, tokens=tokens)
        features.blocks, features.attention = streams, maps
        if class_scores:
            features.class_scores = self._class_scores(self.layers[-1], previous)
        return features

    def _check_numbers(self, wanted: Collection[int], edits: Edits) -> None:
        if set(wanted) - set(range(1, self.depth + 1)):
            raise ValueError(f"blocks are numbered 1 to {self.depth}, asked for {sorted(wanted)}")
        if not edits.keys() <= self.point_widths.keys():
            raise ValueError(f"edits are at blocks 0 to {self.depth - 1}, asked for {sorted(edits)}")

    def _edited(self, x: Tensor, edit: Callable[[Tensor], Tensor] | None) -> Tensor:
        if edit is None:
            return x
        first = self.num_prefix
        patches = map_to_tokens(edit(tokens_to_map(x[:, first:], self.grid)))
        return torch.cat([x[:, :first], patches], dim=1)

    def embed_tokens(
        self, images: Tensor, camids: Tensor | None = None, change: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Input of block 1, [B, 1 + N, C]: the patches, after `change`, with class token, position and camera."""
        self.check_size(images)
        patches = self.embed_patches(images)
        return self.add_positions(patches if change is None else change(patches), camids)

    def run_blocks(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The stream after block `stop` from the stream `x` after block `start` (0: from :meth:`embed_tokens`)."""
        for block in list(self.layers)[start:stop]:
            x = self.run_block(block, x)
        return x

    def _class_scores(self, block: Any, x: Tensor) -> Tensor:
        """[B, heads, N] scores before the softmax; in float32, because losses square and sum them."""
        with torch.autocast(x.device.type, enabled=False):
            query, key = self.class_queries(block, x.float())
            return (query @ key.transpose(2, 3))[:, :, 0] * query.shape[-1] ** -0.5

    def cameras(self, camids: Tensor) -> Tensor:
        """Rows [B, C] of the camera embedding, their mean for MEAN_CAMERA.

        Raises DataError for a camera it has no row for.
        """
        assert self.camera_embedding is not None
        known = len(self.camera_embedding)
        is_mean = camids == MEAN_CAMERA
        # in training cameras are numbered by the data manager, and a GPU need not stop for a check of them
        unseen = camids[:0]
        if not (self.training and camids.is_cuda):
            unseen = camids[((camids < 0) | (camids >= known)) & ~is_mean]
        if len(unseen):
            raise DataError(
                f"camera {int(unseen[0])} (counted from 0) is none of the {known} cameras the camera embedding was "
                "trained on; test on the cameras of training, or train with backbone.sie_camera False"
            )
        if not camids.is_cuda and not bool(is_mean.any()):
            return self.camera_embedding[camids]
        rows = self.camera_embedding[camids.masked_fill(is_mean, 0)]
        return torch.where(is_mean[:, None], self.camera_embedding.mean(0), rows)


def stream_to_map(stream: Tensor, grid: tuple[int, int], num_prefix: int = 1) -> Tensor:
    """A block's output as a map [B, C, *grid]: a stream [B, P + N, C] without its prefix, or a map of any size.

    Maps are averaged down or interpolated up (:func:`occplug.backbones.resampling.to_grid`).
    """
    if stream.ndim == 4:
        return to_grid(stream, grid)
    return tokens_to_map(stream[:, num_prefix:], grid)


def tokens_to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patch tokens [B, h * w, C], row by row, as a map [B, C, h, w] (a view)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def map_to_tokens(x: Tensor) -> Tensor:
    """A map [B, C, h, w] as patch tokens [B, h * w, C], row by row."""
    return x.flatten(2).transpose(1, 2)
