"""Occluded-Market in its layouts."""

import pytest

from occplug.datasets.occluded_market import OccludedMarket
from tests.datasets.trees import put, told

# images from Market-1501 and from MARS, and one of the doubled endings of Market-1501
NAMES = {
    "train": ["0010_c1s6_027271_05.jpg", "0002_c2s0014_092.jpg"],
    "query": ["0014_c1s1_001051_00.jpg", "0001_c1s0004_011.jpg"],
    "gallery": ["1488_c1s6_023021_02.jpg.jpg", "0000_c5s1_1.jpg", "-1_c5s1_2.jpg"],
}


@pytest.mark.parametrize("folder", ["Occluded_Market", "Occluded-Market", "Occluded_Market_Dataset/Occluded_Market"])
@pytest.mark.parametrize(("train", "query"), [("occluded_train", "occluded_query"), ("bounding_box_train", "query")])
def test_layouts(tmp_path, folder, train, query):
    for split, names in zip((train, query, "bounding_box_test"), NAMES.values()):
        put(tmp_path / folder / split, *names)
    (tmp_path / folder / "train_mars.list").touch()
    data = OccludedMarket(str(tmp_path))
    assert told(data.train) == [("0002_c2s0014_092.jpg", 0, 1), ("0010_c1s6_027271_05.jpg", 1, 0)]
    assert told(data.query) == [("0001_c1s0004_011.jpg", 1, 0), ("0014_c1s1_001051_00.jpg", 14, 0)]
    assert told(data.gallery) == [("0000_c5s1_1.jpg", 0, 4), ("1488_c1s6_023021_02.jpg.jpg", 1488, 0)]
    assert data.pids == [2, 10]
