"""Occluded-REID in its layouts; queries are of camera 0, the gallery of camera 2 in each of them."""

import pytest

from occplug.datasets.occluded_reid import OccludedREID
from occplug.errors import DataError
from tests.datasets.trees import put, told

LAYOUTS = {
    "raw": ("occluded_body_images/{0:03d}/{0:03d}_{1:02d}.tif", "whole_body_images/{0:03d}/{0:03d}_{1:02d}.tif"),
    "raw, flat": ("occluded_body_images/{0:03d}_{1:02d}.tif", "whole_body_images/{0:03d}_{1:02d}.tif"),
    "raw, as jpeg": ("occluded_body_images/{0:03d}/{0:03d}_{1:02d}.jpg", "whole_body_images/{0:03d}/{0}_{1:02d}.jpg"),
    "renamed": ("query/{0:04d}_c1s1_0000{1}0_00.tif", "bounding_box_test/{0:04d}_c3s3_0000{1}0_00.tif"),
    "renamed, short": ("query/{0:03d}_c1_{1}.jpg", "gallery/{0:03d}_c3_{1}.jpg"),
    "fast-reid": ("query/{0:03d}_{1:02d}.jpg", "gallery/{0:03d}_{1:02d}.jpg"),
}


def tree(folder, layout):
    for pattern in LAYOUTS[layout]:
        put(folder, *(pattern.format(pid, number) for pid in (1, 12) for number in (1, 2)))


@pytest.mark.parametrize("folder", ["Occluded_REID", "occluded_reid/Occluded_REID", "Occluded-ReID", "OccludedREID"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, folder, layout):
    tree(tmp_path / folder, layout)
    data = OccludedREID(str(tmp_path), verbose=False)
    assert [(pid, camid) for _, pid, camid, _ in data.query] == [(1, 0), (1, 0), (12, 0), (12, 0)]
    assert [(pid, camid) for _, pid, camid, _ in data.gallery] == [(1, 2), (1, 2), (12, 2), (12, 2)]
    assert data.train == [] and data.pids == [] and data.cameras == []
    assert data.num_train_pids == data.num_train_cams == 0


def test_the_raw_layout_comes_first(tmp_path):
    tree(tmp_path / "Occluded_REID", "raw")
    tree(tmp_path / "Occluded_REID", "renamed")
    assert told(OccludedREID(str(tmp_path)).query)[0] == ("001_01.tif", 1, 0)


def test_modes_and_combineall(tmp_path):
    tree(tmp_path / "Occluded_REID", "raw")
    data = OccludedREID(str(tmp_path), mode="gallery", combineall=True)
    assert data.data == data.gallery and data.train == []
    assert OccludedREID(str(tmp_path)).mode == "query"


def test_the_same_name_in_query_and_gallery_is_no_duplicate_but_two_in_a_split_are(tmp_path):
    tree(tmp_path / "Occluded_REID", "raw")
    put(tmp_path / "Occluded_REID/whole_body_images", "copy/012_02.tif")
    home = tmp_path / "Occluded_REID/whole_body_images"
    with pytest.raises(DataError) as caught:
        OccludedREID(str(tmp_path))
    assert str(caught.value) == (
        f"{home}/012/012_02.tif and {home}/copy/012_02.tif have the same name; delete or rename one of them"
    )


def test_wrong_layout_lists_the_accepted_ones(tmp_path):
    put(tmp_path / "Occluded_REID/occluded", "001_01.tif")
    with pytest.raises(DataError) as caught:
        OccludedREID(str(tmp_path))
    assert str(caught.value) == (
        f"occluded_reid: its folder has an unknown layout: {tmp_path}/Occluded_REID holds subfolder occluded; accepted "
        "layouts: Occluded_REID/{occluded_body_images, whole_body_images} or Occluded_REID/{query, bounding_box_test} "
        "or Occluded_REID/{query, gallery}"
    )


def test_a_name_without_a_person(tmp_path):
    tree(tmp_path / "Occluded_REID", "raw")
    put(tmp_path / "Occluded_REID/whole_body_images", "012/12a.tif")
    with pytest.raises(DataError, match=r"whole_body_images/012/12a\.tif has a name without an identity and a camera"):
        OccludedREID(str(tmp_path))
