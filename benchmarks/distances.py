"""Distances with parts and with masks against their formulas as written."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.comparison import Comparison
from occplug.utils.measuring import free_memory, measured

__all__ = ["masked_distances", "part_distances"]


def part_distances(quick: bool) -> Comparison:
    """ProFD's visibility-weighted distance of six parts (the global one too) against all distances of all parts."""
    queries, gallery = (300, 3000) if quick or free_memory() < 6_000 else (2210, 17661)
    theirs = measured(_part_distances, "naive", queries, gallery)
    ours = measured(_part_distances, "occplug", queries, gallery)
    difference = np.abs(theirs.output - ours.output).max()
    return Comparison(
        f"part_distance: Euclidean, weighted by visibility, {queries:,} x {gallery:,}, 6 parts of 512",
        "all parts at once, P x Q x G",
        theirs,
        ours,
        f"largest difference {difference:.1e}",
    )


def _part_distances(whose: str, queries: int, gallery: int) -> Callable:
    query, gallery = _part_embeddings(queries, 1), _part_embeddings(gallery, 2)
    if whose == "occplug":
        from occplug.evaluation import part_distance

        return lambda: part_distance(*query, *gallery).numpy()
    return lambda: _naive_part_distance(query, gallery).numpy()


def _part_embeddings(count: int, seed: int) -> tuple[torch.Tensor, ...]:
    """Unit global and part vectors, and the visibility of five parts."""
    draw = torch.Generator().manual_seed(seed)
    whole, parts = torch.randn(count, 512, generator=draw), torch.randn(count, 5, 512, generator=draw)
    visibility = (torch.rand(count, 5, generator=draw) / 0.1).softmax(1)
    return F.normalize(whole), F.normalize(parts, dim=2), visibility


def _naive_part_distance(query: tuple, gallery: tuple) -> torch.Tensor:
    """The formula as it is written: arrays of all parts' distances and weights."""
    sides = []
    for whole, parts, visibility in (query, gallery):
        seen = torch.cat([torch.ones(len(whole), 1), visibility * (visibility >= 0.1)], dim=1)
        sides.append((torch.cat([whole[:, None], parts], dim=1).transpose(0, 1), seen.T))
    (q, q_seen), (g, g_seen) = sides
    distances = (2 - 2 * q @ g.mT).clamp(min=0).sqrt()  # [P, Q, G]
    weights = q_seen[:, :, None] * g_seen[:, None, :]
    return (weights * distances).sum(0) / weights.sum(0)


def masked_distances(quick: bool) -> Comparison:
    """DPM's test distance against its official loop over queries, each with the whole gallery masked again."""
    queries, gallery = (100, 4000) if quick else (2210, 17661)
    theirs = measured(_masked_distances, "loop", queries, gallery)
    ours = measured(_masked_distances, "occplug", queries, gallery, repeats=3)
    plain = measured(_masked_distances, "cosine", queries, gallery, repeats=3)
    difference = np.abs(theirs.output - ours.output).max()
    return Comparison(
        f"masked_distance: {queries:,} x {gallery:,} of 768, the query's mask on the gallery",
        "a loop over queries, as the official code",
        theirs,
        ours,
        f"largest difference {difference:.1e} rad; the plain cosine distance takes {plain.cpu:.3g} CPU s",
    )


def _masked_distances(whose: str, queries: int, gallery: int) -> Callable:
    draw = torch.Generator().manual_seed(0)
    query, mask = torch.randn(queries, 768, generator=draw), torch.rand(queries, 768, generator=draw)
    gallery = torch.randn(gallery, 768, generator=draw)
    if whose == "loop":
        return lambda: _masked_loop(query, mask, gallery).numpy()
    from occplug.evaluation import cosine_distance, masked_distance

    if whose == "cosine":
        return lambda: float(cosine_distance(query, gallery).sum())
    return lambda: masked_distance(query, mask, gallery).numpy()


def _masked_loop(query: torch.Tensor, mask: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    query, gallery = F.normalize(query), F.normalize(gallery)
    rows = [F.normalize(m * gallery) @ q for q, m in zip(query, mask)]
    return torch.stack(rows).clamp(-1 + 1e-5, 1 - 1e-5).acos()
