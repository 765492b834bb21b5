"""What masks say: statistics of prototype masks, and how masks agree with what is known to be visible."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

__all__ = ["channel_correlations", "correlation", "intersection_over_union", "mask_statistics", "rank_correlation"]


def mask_statistics(masks: np.ndarray) -> dict[str, float]:
    """Least, mean and largest value of prototype masks [N, d], and the share of values under 0.5."""
    return {
        "min": float(masks.min()),
        "mean": float(masks.mean(dtype=np.float64)),
        "max": float(masks.max()),
        "share_under_half": float((masks < 0.5).mean()),
    }


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's correlation of `a` [N] and `b` [N]; None if one of them is constant."""
    (value,) = channel_correlations(np.asarray(a)[:, None], b)
    return None if np.isnan(value) else float(value)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's correlation: Pearson's of the ranks, equal values sharing their mean rank."""
    return correlation(rankdata(a), rankdata(b))


def channel_correlations(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each column of `values` [N, d] with `known` [N]: [d]; nan where either is constant."""
    values, known = np.asarray(values, np.float64), np.asarray(known, np.float64)
    constant = (values == values[:1]).all(0) | (known == known[0]).all()  # rounding in the means would hide it
    values, known = values - values.mean(0), known - known.mean()
    lengths = np.sqrt((values**2).sum(0) * (known**2).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(constant, np.nan, known @ values / lengths)


def intersection_over_union(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """[N] of boolean masks `predicted` and `true` [N, H, W]; nan where both are empty."""
    both, either = (predicted & true).sum((1, 2)), (predicted | true).sum((1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)
