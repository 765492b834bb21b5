"""What a table says of its differences."""

import pytest

from occplug.evaluation import PairedDifference
from occplug.experiments.tables import false_discovery_rates


def difference(p):
    return PairedDifference(0.01, 0.0, 0.02, p, 100)


def test_rates_are_benjamini_and_hochbergs():
    """Their example of 1995: 15 p values, of which 4 stay at 5 %, where Bonferroni keeps 3 and no correction 9."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459]
    p += [0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    found = {f"row{i}": {"mAP": difference(value)} for i, value in enumerate(reversed(p))}
    rates = false_discovery_rates(found)
    assert sum(q["mAP"] <= 0.05 for q in rates.values()) == 4
    for place in range(1, len(p) + 1):  # by hand: the least of p m / rank from here upwards
        by_hand = min(p[i - 1] * len(p) / i for i in range(place, len(p) + 1))
        assert rates[f"row{len(p) - place}"]["mAP"] == pytest.approx(by_hand)


def test_both_figures_of_all_rows_are_one_family():
    rates = false_discovery_rates(
        {"a": {"mAP": difference(0.01), "rank1": difference(0.04)}, "b": {"mAP": difference(1.0)}}
    )
    assert rates == {"a": {"mAP": pytest.approx(0.03), "rank1": pytest.approx(0.06)}, "b": {"mAP": pytest.approx(1.0)}}
    assert false_discovery_rates({}) == {}
