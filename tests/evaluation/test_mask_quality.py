"""Mask figures against values by hand and scipy."""

import numpy as np
import pytest
from scipy import stats

from occplug.evaluation import (
    channel_correlations,
    correlation,
    intersection_over_union,
    mask_statistics,
    rank_correlation,
)


def test_statistics_by_hand():
    told = mask_statistics(np.array([[0.1, 0.5, 0.9], [0.4, 0.6, 0.5]], np.float32))
    assert told == pytest.approx({"min": 0.1, "mean": 0.5, "max": 0.9, "share_under_half": 2 / 6})


def test_correlations_are_scipys():
    draw = np.random.default_rng(1)
    values, known = draw.random((40, 5)), draw.integers(0, 6, 40)  # with ties
    values[:, 1] += known
    found = channel_correlations(values, known)
    for k in range(5):
        assert found[k] == pytest.approx(stats.pearsonr(values[:, k], known)[0], abs=1e-12)
        assert correlation(values[:, k], known) == pytest.approx(found[k])
        assert rank_correlation(values[:, k], known) == pytest.approx(stats.spearmanr(values[:, k], known)[0])
    assert found[1] > 0.9 > found[0]


def test_what_is_constant_correlates_with_nothing():
    values = np.stack([np.arange(4.0), np.full(4, 0.1)], axis=1)
    assert channel_correlations(values, np.array([1.0, 2, 3, 5]))[0] > 0.9
    assert np.isnan(channel_correlations(values, np.array([1.0, 2, 3, 5]))[1])
    assert (
        correlation(np.arange(3), np.full(3, 0.1)) is None and rank_correlation(np.full(3, 0.1), np.arange(3)) is None
    )


def test_intersection_over_union_by_hand():
    found, true = np.zeros((4, 2, 3), bool), np.zeros((4, 2, 3), bool)
    found[0, 0] = True  # 3 cells, of which 2 in the 4 true ones
    true[0, :, :2] = True
    found[1, 0, 0] = true[2, 1, 1] = True
    values = intersection_over_union(found, true)
    assert values[:3].tolist() == [2 / 5, 0, 0] and np.isnan(values[3])
