"""What an engine has to do, and the one that does nothing: exact search compares everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Engine", "Exact", "blocks", "prepared"]


class Engine:
    """An index of vectors by id.

    Args:
        inner_product: compare by angle (vectors are brought to unit length), else by squared Euclidean distance.

    Attributes:
        OPTIONS: keyword arguments with their defaults; `tuned` names the one that trades speed for recall.
        is_exact: every image is compared, so there is nothing to ask for candidates.
        ending: of the file it is kept in; empty if it keeps itself elsewhere, or not at all.
        shared: all processes search one index, so what one has added is found by the others before they know of it.
    """

    OPTIONS: ClassVar[dict] = {}
    tuned: ClassVar[str] = ""
    is_exact: ClassVar[bool] = False
    ending: ClassVar[str] = ""
    shared: ClassVar[bool] = False

    def __init__(self, inner_product: bool):
        self.inner_product = inner_product

    def build(self, vectors: Tensor, ids: np.ndarray) -> None:
        """Start again with `vectors` [N, D] under `ids` [N] int64. They may be float16 and lie in a mapped file."""

    def add(self, vectors: Tensor, ids: np.ndarray) -> None:
        """Add some; those of them that are there already are replaced."""

    def remove(self, ids: np.ndarray) -> None:
        """Forget some."""

    def candidates(self, queries: Tensor, count: int, allowed: np.ndarray | None = None) -> np.ndarray:
        """Ids [Q, at most count] of the vectors near each of `queries` [Q, D]; -1 where there are no more.

        Args:
            allowed: ids that may be among them; None for all.
        """
        raise TypeError(f"{type(self).__name__} gives no candidates")

    def attach(self, folder: Path) -> bool:
        """Where the gallery lies on disk; whether an engine that keeps itself has to be built again there."""
        return False

    def write(self, path: Path) -> None:
        """Keep the index in the file `path`."""

    def read(self, path: Path, vectors: Tensor, ids: np.ndarray) -> np.ndarray:
        """Read it again; returns the ids it holds, of which most should be among `ids` [N], of `vectors` [N, D].

        Raises:
            OSError, RuntimeError, ValueError: it is missing or damaged, so it has to be built again.
            DataError: it is another gallery's, or there is no answer.
        """
        return ids

    def options(self) -> dict:
        """Keyword arguments that make this engine again."""
        return {}

    @property
    def wants_rebuild(self) -> bool:
        """Whether so much has changed that building again is better than going on."""
        return False


class Exact(Engine):
    """Every query is compared with every image."""

    is_exact = True


def prepared(vectors: Tensor, inner_product: bool) -> np.ndarray:
    """`vectors` as engines want them: float32, contiguous, of unit length for inner products."""
    vectors = vectors.float()
    return (F.normalize(vectors) if inner_product else vectors).contiguous().numpy()


def blocks(vectors: Tensor, ids: np.ndarray, size: int, inner_product: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Vectors and ids, `size` at a time, prepared."""
    for start in range(0, len(ids), size):
        chosen = slice(start, start + size)
        yield prepared(vectors[chosen], inner_product), np.ascontiguousarray(ids[chosen], dtype=np.int64)
