"""Embeddings of several files one after the other, read when rows are asked for.

A gallery of many segments is never copied into memory as a whole: its segments stay mapped from their files, rows that
were removed are passed over, and a slice or a list of rows becomes an ordinary :class:`occplug.embedding.Embedding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from occplug.embedding import FIELDS, Embedding

__all__ = ["Stacked", "rows_of", "stacked", "without"]

SMALL = 1 << 16  # rows; parts with fewer are put together in memory


class _Field:
    """One field of all rows, as far as engines look at it: its shape and type, and slices and lists of rows."""

    def __init__(self, whole: Stacked, name: str):
        first = getattr(whole.pieces[0][0], name)
        self._whole, self._name = whole, name
        self.shape, self.dtype, self.ndim = (len(whole), *first.shape[1:]), first.dtype, first.ndim

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> torch.Tensor:
        return getattr(self._whole[index], self._name)


class Stacked(Embedding):
    """Parts one after the other as one embedding, without a copy.

    Args:
        pieces: embeddings with the same fields, each with the rows [n] of it that count, ascending, or None for all.
    """

    def __init__(self, pieces: list[tuple[Embedding, torch.Tensor | None]]):
        self.pieces = pieces
        counts = [len(part) if rows is None else len(rows) for part, rows in pieces]
        self._starts = np.cumsum([0, *counts])
        first = pieces[0][0]
        self.origin = first.origin
        fields: Any = {name: None if getattr(first, name) is None else _Field(self, name) for name in FIELDS}
        self.vector, self.parts, self.visibility, self.mask = (fields[name] for name in FIELDS)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index) -> Embedding:
        """Rows as an ordinary embedding; those of a slice within one part stay mapped."""
        rows = rows_of(index, len(self))
        numbers = np.searchsorted(self._starts, rows, "right") - 1
        held = np.unique(numbers).tolist()
        if len(held) == 1 or not len(rows):
            return self._within(held[0] if held else 0, rows)
        shapes = {name: (len(rows), *shape) for name, shape in self.layout()}
        filled = {n: torch.empty(shape, dtype=getattr(self, n).dtype) for n, shape in shapes.items()}
        for number in held:
            at = torch.from_numpy(numbers == number)
            part = self._within(number, rows[numbers == number])
            for name, values in filled.items():
                values[at] = getattr(part, name)
        return Embedding(**filled, origin=self.origin)

    def _within(self, number: int, rows: np.ndarray) -> Embedding:
        part, kept = self.pieces[number]
        local = rows - self._starts[number]
        if kept is None and len(local) and (np.diff(local) == 1).all():
            return part[int(local[0]) : int(local[-1]) + 1]
        chosen = torch.from_numpy(local)
        return part[chosen if kept is None else kept[chosen]]

    def to(self, *args, **kwargs) -> Embedding:
        """All of it, copied."""
        return self[:].to(*args, **kwargs)

    def without(self, gone: torch.Tensor) -> Embedding:
        """What is left without the rows for which `gone` [N] is True; nothing is copied."""
        left: list[tuple[Embedding, torch.Tensor | None]] = []
        for number, (part, kept) in enumerate(self.pieces):
            stays = ~gone[self._starts[number] : self._starts[number + 1]]
            if stays.all():
                left.append((part, kept))
            elif stays.any():
                places = stays.nonzero()[:, 0]
                left.append((part, places if kept is None else kept[places]))
        return Stacked(left) if left else self[:0]


def without(embedding: Embedding, gone: torch.Tensor) -> Embedding:
    """What is left of `embedding` without the rows for which `gone` [N] is True, copied if it is small."""
    if len(embedding) < SMALL and not isinstance(embedding, Stacked):
        return embedding[~gone]
    return (embedding if isinstance(embedding, Stacked) else Stacked([(embedding, None)])).without(gone)


def rows_of(index, count: int) -> np.ndarray:
    """[n] int64, the rows of `count` that `index` (a slice, a list, a boolean or whole-number array) chooses."""
    if isinstance(index, slice):
        return np.arange(*index.indices(count))
    found = np.asarray(index.cpu() if isinstance(index, torch.Tensor) else index)
    found = found.nonzero()[0] if found.dtype == bool else np.atleast_1d(found).astype(np.int64)
    return np.where(found < 0, found + count, found)


def stacked(items: Sequence[Embedding]) -> Embedding:
    """`items` one after the other: copied together where they are small, else as :class:`Stacked`."""
    pieces: list[tuple[Embedding, torch.Tensor | None]] = []
    for item in items:
        pieces += item.pieces if isinstance(item, Stacked) else [(item, None)]
    joined: list[tuple[Embedding, torch.Tensor | None]] = []
    for part, kept in pieces:
        is_small = kept is None and len(part) < SMALL
        if joined and is_small and joined[-1][1] is None and len(joined[-1][0]) < SMALL:
            joined[-1] = (Embedding.cat([joined[-1][0], part]), None)
        else:
            joined.append((part, kept))
    return joined[0][0] if len(joined) == 1 and joined[0][1] is None else Stacked(joined)
