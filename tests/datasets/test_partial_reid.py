"""Partial-REID in its layouts."""

import pytest

from occplug.datasets.partial_reid import PartialREID
from occplug.errors import DataError
from tests.datasets.trees import put, told


@pytest.mark.parametrize("folder", ["Partial_REID", "Partial-REID_Dataset", "PartialREID", "partial_reid/PartialREID"])
@pytest.mark.parametrize(
    ("query", "gallery"),
    [("partial_body_images", "whole_body_images"), ("occluded_body_images", "whole_body_images"), ("query", "gallery")],
)
def test_layouts(tmp_path, folder, query, gallery):
    put(tmp_path / folder, f"{query}/001_001.jpg", f"{query}/060_005.jpg", f"{gallery}/001_001.jpg")
    data = PartialREID(str(tmp_path))
    assert told(data.query) == [("001_001.jpg", 1, 0), ("060_005.jpg", 60, 0)]
    assert told(data.gallery) == [("001_001.jpg", 1, 1)]
    assert data.train == []


def test_cut_outs_come_before_uncut_occluded_images(tmp_path):
    put(tmp_path / "Partial_REID", "partial_body_images/001_001.jpg", "occluded_body_images/002_001.jpg")
    put(tmp_path / "Partial_REID", "whole_body_images/001_001.jpg")
    assert told(PartialREID(str(tmp_path)).query) == [("001_001.jpg", 1, 0)]


def test_no_gallery(tmp_path):
    put(tmp_path / "Partial_REID", "partial_body_images/001_001.jpg")
    (tmp_path / "Partial_REID/whole_body_images").mkdir()
    with pytest.raises(DataError, match="^partial_reid: .*/whole_body_images has no images, it holds nothing; fill it"):
        PartialREID(str(tmp_path))
