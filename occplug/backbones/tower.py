"""What methods ask of any image tower, and what a CLIP tower alone answers; a hybrid gives its own answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from occplug.method import Group

__all__ = ["CLIPTower", "Edits", "map_to_tokens", "tokens_to_map"]

# number of a layer -> function of the map [B, C, h, w] there, whose result goes on in its place
Edits = Mapping[int, Callable[[Tensor], Tensor]]


class CLIPTower(nn.Module):
    """Base of the CLIP towers.

    Attributes:
        point_widths: number of a layer -> channels there, for the layers after which an edit reaches the features.
    """

    point_widths: dict[int, int]

    @property
    def clip(self) -> CLIPTower:
        """The plain CLIP tower: of a hybrid what its CLIP computes alone, here the tower itself."""
        return self

    def load_beside_clip(self) -> None:
        """Read the initial weights of what runs beside the CLIP tower; nothing does here."""

    def own_groups(self, weight_decay: float, prefix: str = r"backbone\.") -> list[Group]:
        """Learning rates of what runs beside the CLIP tower, to be put before a method's groups; nothing does here."""
        return []


def tokens_to_map(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patch tokens [B, h * w, C], row by row, as a map [B, C, h, w] (a view)."""
    return tokens.transpose(1, 2).unflatten(2, grid)


def map_to_tokens(x: Tensor) -> Tensor:
    """A map [B, C, h, w] as patch tokens [B, h * w, C], row by row."""
    return x.flatten(2).transpose(1, 2)
