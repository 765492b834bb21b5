"""Occluded-Duke; the rules it shares with the other sets are in test_common.py."""

from occplug.datasets.occluded_duke import OccludedDuke
from tests.datasets.trees import market_tree, told


def test_names_of_the_release(tmp_path):
    market_tree(tmp_path / "Occluded_Duke", name="{:04d}_c{}_f0046182.jpg", cameras=(1, 8))
    data = OccludedDuke(str(tmp_path))
    assert told(data.query) == [("0001_c1_f0046182.jpg", 1, 0), ("0002_c1_f0046182.jpg", 2, 0)]
    assert {camid for _, _, camid, _ in data.gallery} == {0, 7}
    assert data.cameras == list(range(1, 9))
