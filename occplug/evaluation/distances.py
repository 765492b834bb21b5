"""Distances between embedding vectors, one row per query; smaller is closer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["cosine_distance", "squared_euclidean"]


def squared_euclidean(query: Tensor, gallery: Tensor) -> Tensor:
    """Squared Euclidean distance of every query to every gallery vector; of unit vectors it is 2 - 2 cos.

    d_ij = |q_i|^2 + |g_j|^2 - 2 q_i . g_j, as in torchreid; rounding below 0 is cut off.

    Args:
        query: [Q, D], any floating type.
        gallery: [G, D].
    Returns: [Q, G] float32, at least 0.
    Raises: ValueError if the shapes do not fit (message gives both).
    """
    query, gallery = _checked(query, gallery)
    with torch.autocast(query.device.type, enabled=False):
        q_squares, g_squares = (torch.linalg.vector_norm(x, dim=1).square() for x in (query, gallery))  # no copy of x
        distances = torch.addmm(g_squares[None], query, gallery.T, alpha=-2)  # [Q, G]
        return distances.add_(q_squares[:, None]).clamp_(min=0)


def cosine_distance(query: Tensor, gallery: Tensor) -> Tensor:
    """One minus the cosine of every query to every gallery vector, of any length; a zero vector has cosine 0.

    The gallery is divided by its lengths after the product, so that no normalised copy of it is made.

    Args:
        query: [Q, D], any floating type.
        gallery: [G, D].
    Returns: [Q, G] float32 in [0, 2].
    Raises: ValueError if the shapes do not fit (message gives both).
    """
    query, gallery = _checked(query, gallery)
    with torch.autocast(query.device.type, enabled=False):
        cosines = F.normalize(query) @ gallery.T  # [Q, G]
        lengths = torch.linalg.vector_norm(gallery, dim=1).clamp_(min=1e-12)
        return cosines.div_(-lengths).add_(1).clamp_(0, 2)


def _checked(query: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
    if query.ndim != 2 or gallery.ndim != 2 or query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query is [Q, D] and gallery [G, D], got {tuple(query.shape)} and {tuple(gallery.shape)}")
    return query.float(), gallery.float()
