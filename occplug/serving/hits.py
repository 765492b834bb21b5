"""What a search in a gallery returns, and how distances become it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from occplug.embedding import Embedding
from occplug.errors import DataError

__all__ = ["Hits", "full", "in_order", "numbers"]


class Hits(NamedTuple):
    """The images a search returns, nearest first.

    Args:
        ids: [Q, K] int64.
        distances: [Q, K] float32, the method's own.
    """

    ids: np.ndarray
    distances: np.ndarray


def numbers(distances: Tensor) -> Tensor:
    """`distances` as float32 on the CPU. Raises DataError if one is not a number: nothing could be ranked by it."""
    found = distances.float().cpu()
    if found.isnan().any():
        raise DataError("a distance is not a number, so nothing can be ranked by it; check the function that gives it")
    return found


def full(embedding: Embedding) -> Embedding:
    """float32, also of rows that are kept in half precision."""
    return embedding if embedding.vector.dtype == torch.float32 else embedding.to(torch.float32)


def in_order(distances: np.ndarray, ids: np.ndarray) -> Hits:
    """Nearest first; of equals the lower id."""
    order = np.lexsort((ids, distances), axis=1) if distances.size else np.zeros(distances.shape, np.int64)
    return Hits(np.take_along_axis(ids, order, 1), np.take_along_axis(distances, order, 1).astype(np.float32))
