"""Partial-iLIDS in its layouts."""

import pytest

from occplug.datasets.partial_ilids import PartialILIDS
from occplug.errors import DataError
from tests.datasets.trees import put, told


@pytest.mark.parametrize("folder", ["Partial_iLIDS", "PartialILIDS", "partial_ilids/Partial_iLIDS", "partial-ilids"])
@pytest.mark.parametrize(
    ("query", "gallery"),
    [("Probe", "Gallery"), ("partial_body_images", "whole_body_images"), ("query", "gallery")],
)
@pytest.mark.parametrize("name", ["{}.jpg", "{:03d}.jpg", "{:03d}_1.jpg"])
def test_layouts(tmp_path, folder, query, gallery, name):
    put(tmp_path / folder, *(f"{side}/{name.format(pid)}" for side in (query, gallery) for pid in (1, 119)))
    (tmp_path / folder / "Probe.txt").touch()
    data = PartialILIDS(str(tmp_path))
    assert told(data.query) == [(name.format(1), 1, 0), (name.format(119), 119, 0)]
    assert [(pid, camid) for _, pid, camid, _ in data.gallery] == [(1, 1), (119, 1)]
    assert data.train == []


def test_a_name_without_a_number(tmp_path):
    put(tmp_path / "Partial_iLIDS", "Probe/a1.jpg", "Gallery/1.jpg")
    with pytest.raises(DataError, match=r"^partial_ilids: .*/Probe/a1\.jpg has a name without an identity"):
        PartialILIDS(str(tmp_path))
