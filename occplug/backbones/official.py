"""Files of self-supervised human-centric training (PersonViT, TransReID-SSL, SOLIDER), and of fine-tunings from them.

Three layouts: a pre-training checkpoint with the weights under `teacher`; the teacher alone, its names with the prefix
`backbone.` or none; a fine-tuned model, whose tower has the prefix `base.` and whose neck stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from occplug.backbones.position import resize_positions, stored_grid
from occplug.errors import CheckpointError
from occplug.utils.keys import check_fit, note_renamed
from occplug.utils.tensors import WRAPPERS, read_tensors

__all__ = ["HUMAN_GRID", "POSITIONS", "OfficialTower", "read_official"]

HUMAN_GRID = (16, 8)  # of the position embedding in every file of this family: 256 x 128 pixels, patches of 16
POSITIONS = "pos_embed"
# Heads of the pre-training, and classes of ImageNet; no fine-tuning reads them
_IGNORED = re.compile(r"(base\.|backbone\.)?(fc\.(weight|bias)|masked_embed|(head|pre_logits)\..*)")
_NECK = re.compile(r"bottleneck\..*|classifier\.weight")
_INDEX = "relative_position_index"  # a constant of Swin


@dataclass(frozen=True)
class OfficialTower:
    """The tensors of a file, under their official names.

    Args:
        state: all of them.
        where: what to call the file.
        prefix: of the tower's names: "base.", "backbone." or "".
    """

    state: dict[str, Tensor]
    where: str
    prefix: str

    @property
    def is_finetuned(self) -> bool:
        """Whether a neck and a classifier are beside the tower."""
        return self.prefix == "base."

    @property
    def unused(self) -> list[str]:
        """Names that are in the file for the pre-training alone, or hold a constant."""
        return [name for name in self.state if _IGNORED.fullmatch(name) or name.endswith(f".{_INDEX}")]

    def names(self, pattern: str) -> list[str]:
        """Official names whose part after the prefix matches `pattern`."""
        return [name for name in self.state if re.fullmatch(re.escape(self.prefix) + pattern, name)]

    def with_positions(self, grid: tuple[int, int], others: list[tuple[int, int]]) -> OfficialTower:
        """With the position embedding on `grid`, bilinear without antialiasing; unchanged if it is of no known grid.

        Args:
            others: grids it may be stored on, beside 16 x 8 and `grid`.
        """
        name = f"{self.prefix}{POSITIONS}"
        positions = self.state.get(name)
        if positions is None or positions.ndim != 3 or positions.shape[0] != 1:
            return self
        stored = stored_grid(positions.shape[1], [*others, HUMAN_GRID, grid])
        if stored is None:
            return self
        fitted = resize_positions(positions[0], stored, grid)[None]
        return OfficialTower({**self.state, name: fitted}, self.where, self.prefix)

    def check_index(self, expected: Tensor) -> None:
        """Raise CheckpointError for an index of relative positions that is not `expected`."""
        for name in (name for name in self.state if name.endswith(f".{_INDEX}")):
            tensor = self.state[name]
            if tensor.shape != expected.shape or not torch.equal(tensor.long(), expected):
                raise CheckpointError(f"{self.where}: {name} is not the index of 7 x 7 windows, so it is another Swin")

    def fill(self, visual: nn.Module, what: str) -> None:
        """Load the tower into `visual`, whose names are the official ones without the prefix, all or nothing.

        Raises:
            CheckpointError: lists every wrongly shaped, missing and unknown official name.
        """
        here = visual.state_dict()
        unused = [*self.unused, *(name for name in self.state if self.is_finetuned and _NECK.fullmatch(name))]
        expected = {f"{self.prefix}{name}": value.shape for name, value in here.items()}
        check_fit(self.state, expected, self.where, what, unused)
        note_renamed({f"{self.prefix}{name}": f"backbone.visual.{name}" for name in here})
        visual.load_state_dict({name: self.state[f"{self.prefix}{name}"] for name in here})


def read_official(checkpoint) -> OfficialTower:
    """The tensors of a path or of a dict in one of the three layouts, each name with or without `module.`.

    Settings that were pickled beside them (`argparse.Namespace`) are read as inert values.

    Raises:
        CheckpointError: no such file, damaged, needing code to run, or holding something other than plain tensors.
    """
    wanted = ("teacher", *WRAPPERS)
    if isinstance(checkpoint, Mapping) and "teacher" in checkpoint:
        checkpoint = checkpoint["teacher"]
    state, where = read_tensors(checkpoint, wrappers=wanted)
    prefix = next((p for p in ("base.", "backbone.") if any(name.startswith(p) for name in state)), "")
    return OfficialTower(state, where, prefix)
