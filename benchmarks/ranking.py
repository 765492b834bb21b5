"""Ranking and re-ranking of distances against torchreid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.comparison import Comparison, torchreid
from occplug.utils.measuring import free_memory, measured

__all__ = ["ranking", "reranking"]


def ranking(quick: bool) -> Comparison:
    """CMC and mAP of a distance matrix of Occluded-Duke's size against torchreid's Python code."""
    queries, gallery = (600, 6000) if quick else (2210, 17661)
    theirs = measured(_ranking, "torchreid", queries, gallery)
    ours = measured(_ranking, "occplug", queries, gallery, repeats=5)
    return Comparison(
        f"ranking: CMC and mAP of {queries:,} x {gallery:,} distances",
        f"{torchreid()}, Python",
        theirs,
        ours,
        f"mAP {theirs.output[1]:.8f} and {ours.output[1]:.8f}; "
        f"CMC {'equal' if np.array_equal(theirs.output[0], ours.output[0]) else 'NOT equal'}",
    )


def _ranking(whose: str, queries: int, gallery: int) -> Callable:
    rng = np.random.default_rng(0)
    pids, cameras = ([rng.integers(0, n, size) for size in (queries, gallery)] for n in (gallery // 16, 8))
    distances = rng.random((queries, gallery), dtype=np.float32)
    if whose == "occplug":
        from occplug.evaluation import evaluate_rank

        return lambda: evaluate_rank(distances, *pids, *cameras)
    from occplug import torchreid_host as bridge

    rank = bridge.sub("metrics.rank").evaluate_rank
    return lambda: rank(distances, *pids, *cameras, use_cython=False)


def reranking(quick: bool) -> Comparison:
    """k-reciprocal re-ranking at Occluded-Duke's size against torchreid's; that needs 9 GiB, else it runs smaller."""
    queries, gallery = (700, 5300) if quick or free_memory() < 10_000 else (2210, 17661)
    theirs = measured(_reranking, "torchreid", queries, gallery)
    ours = measured(_reranking, "occplug", queries, gallery)
    difference = np.abs(theirs.output - ours.output).max()
    return Comparison(
        f"reranking: k1 = 20, k2 = 6, lambda = 0.3, {queries:,} x {gallery:,}",
        torchreid(),
        theirs,
        ours,
        f"largest difference {difference:.1e}",
    )


def _reranking(whose: str, queries: int, gallery: int) -> Callable:
    inputs = _clustered_distances(queries, gallery)
    if whose == "occplug":
        from occplug.evaluation import re_ranking

        return lambda: re_ranking(*inputs)
    from occplug import torchreid_host as bridge

    return lambda: bridge.sub("utils.rerank").re_ranking(*inputs)


def _clustered_distances(queries: int, gallery: int) -> list[np.ndarray]:
    """Euclidean distances q_g, q_q, g_g of unit vectors in clusters of 16."""
    torch.manual_seed(0)
    centres = torch.randn(gallery // 16, 64)
    vectors = centres[torch.randint(len(centres), (queries + gallery,))] + 0.8 * torch.randn(queries + gallery, 64)
    query, gallery = F.normalize(vectors).split([queries, gallery])
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    return [(a @ b.T).mul_(-2).add_(2).clamp_(min=0).sqrt_().numpy() for a, b in pairs]
