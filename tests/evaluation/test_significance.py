"""The paired bootstrap: against a loop, on known shifts, and calibrated where there is no difference."""

import numpy as np
import pytest

from occplug.errors import DataError
from occplug.evaluation import paired_bootstrap


def values(seed, queries=200, shift=0.0, spread=0.1):
    rng = np.random.default_rng(seed)
    baseline = rng.random(queries)
    return baseline + rng.normal(shift, spread, queries), baseline


def test_it_is_what_a_loop_over_draws_gives():
    ours, baseline = values(0, queries=12, shift=0.02)
    groups = np.repeat([3, 1, 7, 9], [5, 1, 4, 2])  # labels in no order, groups of unequal size
    drawn = np.random.default_rng(5).integers(4, size=(400, 4))
    labels = sorted(set(groups.tolist()))
    means = []
    for draw in drawn:
        found = []
        for place in draw:
            found += [ours[q] - baseline[q] for q in range(12) if groups[q] == labels[place]]
        means.append(sum(found) / len(found))
    result = paired_bootstrap(ours, baseline, groups, draws=400, seed=5)
    below, above = sum(m <= 0 for m in means), sum(m >= 0 for m in means)
    assert result.p == pytest.approx(min(1, 2 * (min(below, above) + 1) / 401))
    assert (result.low, result.high) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))))
    assert result.difference == pytest.approx(np.mean(ours - baseline)) and result.queries == 12


def test_a_known_shift_is_found_with_its_interval():
    ours, baseline = values(1, queries=500, shift=0.03)  # standard error 0.1 / sqrt(500) = 0.0045
    result = paired_bootstrap(ours, baseline)
    assert result.p < 0.001 and result.low < 0.03 < result.high
    assert result.high - result.low == pytest.approx(2 * 1.96 * 0.1 / 500**0.5, rel=0.1)


def test_pairing_is_what_finds_it():
    """The same two sets of values, paired wrongly, drown a shift of 0.03 in the queries' own spread."""
    ours, baseline = values(1, queries=500, shift=0.03)
    assert paired_bootstrap(np.roll(ours, 1), baseline).p > 0.01 > paired_bootstrap(ours, baseline).p


def rate_below_5_percent(queries_per_person, grouped):
    rng = np.random.default_rng(7)
    below = 0
    for seed in range(400):
        person = np.repeat(np.arange(80), queries_per_person)
        difference = rng.normal(0, 0.1, 80)[person] + rng.normal(0, 0.03, len(person))
        result = paired_bootstrap(difference, np.zeros(len(person)), person if grouped else None, 600, seed)
        below += result.p < 0.05
    return below / 400


def test_without_a_difference_one_in_twenty_is_below_5_percent():
    # binomial standard error of 400 trials: 0.011
    assert 0.02 < rate_below_5_percent(1, grouped=False) < 0.09
    assert 0.02 < rate_below_5_percent(5, grouped=True) < 0.09


def test_queries_of_one_person_drawn_singly_would_overstate_the_evidence():
    assert rate_below_5_percent(5, grouped=False) > 0.2


def test_swapping_the_models_swaps_the_signs():
    ours, baseline = values(2, shift=0.01)
    one, other = paired_bootstrap(ours, baseline, seed=4), paired_bootstrap(baseline, ours, seed=4)
    assert one.p == other.p and one.difference == -other.difference
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one == paired_bootstrap(ours, baseline, seed=4) != paired_bootstrap(ours, baseline, seed=5)


def test_equal_models_give_1():
    same, _ = values(3)
    result = paired_bootstrap(same, same)
    assert (result.p, result.difference, result.low, result.high) == (1, 0, 0, 0)


def test_blocks_change_nothing(monkeypatch):
    ours, baseline = values(4, shift=0.01)
    whole = paired_bootstrap(ours, baseline, draws=1000)
    monkeypatch.setattr("occplug.evaluation.significance.BLOCK", 777)
    assert paired_bootstrap(ours, baseline, draws=1000) == whole


def test_queries_without_a_match_are_left_out():
    ours, baseline = values(5, queries=50, shift=0.02)
    padded = [np.append(side, np.nan) for side in (ours, baseline)]
    result = paired_bootstrap(*padded)
    assert result.queries == 50 and result.difference == pytest.approx(np.mean(ours - baseline))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"\(2,\), \(3,\)"):
        paired_bootstrap([0.1, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(DataError, match="not tested on the same gallery"):
        paired_bootstrap([0.1, np.nan], [0.1, 0.2])
    with pytest.raises(DataError, match="nothing to compare"):
        paired_bootstrap([np.nan], [np.nan])
