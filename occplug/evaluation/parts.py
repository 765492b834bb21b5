"""Visibility-weighted distance of part embeddings."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["METRICS", "part_distance"]

_QUERIES, _GALLERY = 512, 1024  # rows of a block: its distances stay in the processor's cache
METRICS = ("euclidean", "cosine")


@torch.no_grad()
def part_distance(
    q_global: Tensor,
    q_parts: Tensor,
    q_vis: Tensor,
    g_global: Tensor,
    g_parts: Tensor,
    g_vis: Tensor,
    metric: str = "euclidean",
    vis_floor: float = 0.1,
) -> Tensor:
    r"""Mean of the parts' distances, each weighted by how well both images show the part.

    ProFD (arXiv 2409.20081), eq. 14, in the form of its official code:

        u = visibility, 0 where it is below `vis_floor`        w_n = u_n^q u_n^g
        d_n = |q_n - g_n| (euclidean) or 1 - q_n . g_n (cosine)
        distance = (d_global + sum_n w_n d_n) / (1 + sum_n w_n)

    A part that either image does not show has no influence at all. No array of Q x G x P is made: the Euclidean
    distance adds up part by part within blocks, and in the cosine the weights move into the vectors.

    Args:
        q_global, g_global: [Q, D] and [G, D], unit vectors, of visibility 1.
        q_parts, g_parts: [Q, P, d] and [G, P, d], unit vectors.
        q_vis, g_vis: [Q, P] and [G, P] in [0, 1].
        metric: "euclidean" or "cosine".
        vis_floor: visibilities below it count as 0.

    Returns: [Q, G] float32. The arguments stay as they are.

    Raises: ValueError for another metric, or shapes that do not fit (the message gives them).
    """
    _check(q_global, q_parts, q_vis, g_global, g_parts, g_vis, metric)
    with torch.autocast(q_global.device.type, enabled=False):
        return _in_blocks(q_global, q_parts, q_vis, g_global, g_parts, g_vis, metric, vis_floor)


def _in_blocks(q_global, q_parts, q_vis, g_global, g_parts, g_vis, metric: str, vis_floor: float) -> Tensor:
    q_seen, g_seen = (torch.where(v < vis_floor, 0.0, v.float()) for v in (q_vis, g_vis))
    result = torch.empty(len(q_global), len(g_global), device=q_global.device, dtype=torch.float32)
    one = torch.ones((), device=q_global.device, dtype=torch.float32)
    for start in range(0, len(g_global), _GALLERY):
        block = slice(start, start + _GALLERY)
        gallery = _weighted(g_global[block], g_parts[block], g_seen[block], metric, is_query=False)
        for first in range(0, len(q_global), _QUERIES):
            rows = slice(first, first + _QUERIES)
            query = _weighted(q_global[rows], q_parts[rows], q_seen[rows], metric, is_query=True)
            total = _euclidean(query, gallery) if metric == "euclidean" else query[0] @ gallery[0].T
            total.div_(torch.addmm(one, q_seen[rows], g_seen[block].T))
            result[rows, block] = total if metric == "euclidean" else total.neg_().add_(1).clamp_(min=0)
    return result


def _euclidean(query: list[Tensor], gallery: list[Tensor]) -> Tensor:
    """Sum of the weighted distances of a block, from what :func:`_weighted` made of each part."""
    weighted = ((q @ g.T).clamp_(min=0).sqrt_() for q, g in zip(query, gallery))  # w d = sqrt(w^2 (2 - 2 q . g))
    return functools.reduce(Tensor.add_, weighted)


def _weighted(whole: Tensor, parts: Tensor, visibility: Tensor, metric: str, is_query: bool) -> list[Tensor]:
    """Vectors whose products are weighted: for the cosine all parts in one, sum_n w_n q_n . g_n; for the Euclidean
    distance one a part, with one more column, 2 w_n^2 (1 - q_n . g_n)."""
    if metric == "cosine":
        return [torch.cat([whole.float(), (visibility[:, :, None] * parts).flatten(1)], dim=1)]
    vectors, squares = [whole, *parts.unbind(1)], [torch.ones_like(visibility[:, 0]), *visibility.square().unbind(1)]
    if is_query:
        return [F.pad(v.float(), (0, 1), value=1.0) * (2 * s)[:, None] for v, s in zip(vectors, squares)]
    return [F.pad(-v.float(), (0, 1), value=1.0) * s[:, None] for v, s in zip(vectors, squares)]


def _check(q_global, q_parts, q_vis, g_global, g_parts, g_vis, metric: str) -> None:
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}; there are: {', '.join(METRICS)}")
    sides = ((q_global, q_parts, q_vis), (g_global, g_parts, g_vis))
    each = all(
        (whole.ndim, parts.ndim) == (2, 3) and parts.shape[:2] == vis.shape and len(whole) == len(parts)
        for whole, parts, vis in sides
    )
    if not each or q_global.shape[1:] != g_global.shape[1:] or q_parts.shape[1:] != g_parts.shape[1:]:
        shapes = [tuple(tensor.shape) for side in sides for tensor in side]
        raise ValueError(f"wanted [Q, D], [Q, P, d], [Q, P] and [G, D], [G, P, d], [G, P]; got {shapes}")
