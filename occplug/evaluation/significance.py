"""Is one model better than another on the same queries? The paired bootstrap.

Queries of one person share their gallery images, so they fail and succeed together: drawn one by one they would look
like more evidence than they are. What is drawn with replacement are therefore whole groups of queries (the identities).
The answer is about other queries of this kind; how much training seeds differ is another question, which the standard
deviation over seeds answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occplug.errors import DataError

__all__ = ["PairedDifference", "paired_bootstrap"]

BLOCK = 1 << 22  # group draws held at a time


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference between two models on the same queries, in the unit of the values.

    Args:
        difference: mean of ours minus the baseline's.
        low, high: 95 % percentile interval of it.
        p: two-sided; below 0.05 where the interval leaves 0 out. 1 for equal models.
        queries: number of queries compared.
    """

    difference: float
    low: float
    high: float
    p: float
    queries: int


def paired_bootstrap(ours, baseline, groups=None, draws: int = 10_000, seed: int = 0) -> PairedDifference:
    """Compare two models by values of the same queries (Efron & Tibshirani, An Introduction to the Bootstrap, 1993).

    Each draw takes G groups with replacement and the mean difference over all their queries. p is twice the smaller
    share of draws on one side of 0 (draws at 0 count for both), the observed sample counted as a draw, at most 1.

    Args:
        ours, baseline: [Q] one value per query, e.g. average precision; nan in both where a query has no match.
        groups: [Q] labels of queries that are drawn together; None draws each query on its own.
        draws: bootstrap samples.
        seed: of the draws; the same seed draws the same groups, so swapping the models swaps the signs.

    Raises:
        ValueError: unequal shapes.
        DataError: nan on one side only, or nothing to compare.
    """
    ours, baseline = np.asarray(ours, float), np.asarray(baseline, float)
    groups = np.arange(ours.size) if groups is None else np.asarray(groups)
    if ours.ndim != 1 or not ours.shape == baseline.shape == groups.shape:
        raise ValueError(f"values and groups are [Q] each, got {ours.shape}, {baseline.shape} and {groups.shape}")
    valid = ~np.isnan(ours)
    if not np.array_equal(valid, ~np.isnan(baseline)):
        raise DataError("the two models were not tested on the same gallery: a query has a match for one of them only")
    if not valid.any():
        raise DataError("no query with a match: there is nothing to compare")
    differences = ours[valid] - baseline[valid]
    means = _drawn_means(differences, groups[valid], draws, np.random.default_rng(seed))
    smaller = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    p = min(1.0, 2 * (int(smaller) + 1) / (draws + 1))
    low, high = np.quantile(means, (0.025, 0.975))
    return PairedDifference(float(differences.mean()), float(low), float(high), p, len(differences))


def _drawn_means(differences: np.ndarray, groups: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Mean difference [draws] over the queries of as many groups as there are, drawn with replacement."""
    _, group = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group)  # [G]
    sums = np.bincount(group, differences)
    block = max(1, BLOCK // len(sizes))
    means = []
    for start in range(0, draws, block):
        drawn = rng.integers(len(sizes), size=(min(block, draws - start), len(sizes)))  # [b, G]
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)
