"""P-DukeMTMC in its layouts: camera 0 is occluded, camera 1 whole-body."""

import pytest

from occplug.datasets.p_dukemtmc import PDukeMTMC
from occplug.errors import DataError
from tests.datasets.trees import put, told


def raw(folder):
    put(folder / "train/occluded_body_images", "0030/0030_c3_f0000001.jpg", "0004/0004_c1_f0000002.jpg")
    put(folder / "train/whole_body_images", "0030/0030_c3_f0000009.jpg")
    put(folder / "test/occluded_body_images", "0007/0007_c5_f0000001.jpg")
    put(folder / "test/whole_body_images", "0007/0007_c6_f0000001.jpg", "0008/0008_c6_f0000001.jpg")


CONTAINER = "ICME2018_Occluded-Person-Reidentification_datasets"


@pytest.mark.parametrize("folder", ["P-DukeMTMC-reid", "P-DukeMTMC-reID", "p_dukemtmc", f"{CONTAINER}/P-DukeMTMC-reid"])
def test_the_layout_of_the_release(tmp_path, folder):
    raw(tmp_path / folder)
    data = PDukeMTMC(str(tmp_path))
    assert data.pids == [4, 30], "persons who are occluded in every training image count too"
    assert data.cameras == [1, 2]
    assert told(data.train) == [
        ("0004_c1_f0000002.jpg", 0, 0),
        ("0030_c3_f0000001.jpg", 1, 0),
        ("0030_c3_f0000009.jpg", 1, 1),
    ]
    assert told(data.query) == [("0007_c5_f0000001.jpg", 7, 0)]
    assert told(data.gallery) == [("0007_c6_f0000001.jpg", 7, 1), ("0008_c6_f0000001.jpg", 8, 1)]


@pytest.mark.parametrize("stem", ["{pid:04d}_c3_f0000001", "{pid:04d}_05"])
def test_the_renamed_layout_keeps_the_kind_in_the_last_field(tmp_path, stem):
    folder = tmp_path / "P-DukeMTMC-reid"
    put(folder / "bounding_box_train", f"{stem.format(pid=4)}_01.jpg", f"{stem.format(pid=4)}_02.jpg")
    put(folder / "query", f"{stem.format(pid=7)}_01.jpg")
    put(folder / "bounding_box_test", f"{stem.format(pid=7)}_02.jpg")
    data = PDukeMTMC(str(tmp_path))
    assert [(pid, camid) for _, pid, camid, _ in data.train] == [(0, 0), (0, 1)]
    assert [(pid, camid) for _, pid, camid, _ in data.query + data.gallery] == [(7, 0), (7, 1)]


def test_the_renamed_layout_without_kinds_has_real_cameras_in_training(tmp_path):
    folder = tmp_path / "P-DukeMTMC-reid"
    put(folder / "bounding_box_train", "0004_c3_f0000001.jpg", "0004_c1_f0000001.jpg")
    put(folder / "query", "0007_c3_f0000001.jpg")
    put(folder / "bounding_box_test", "0007_c3_f0000002.jpg")
    data = PDukeMTMC(str(tmp_path))
    assert [camid for _, _, camid, _ in data.train] == [0, 2]
    assert [camid for _, _, camid, _ in data.query + data.gallery] == [0, 1]


def test_training_names_without_camera_or_kind_are_errors(tmp_path):
    folder = tmp_path / "P-DukeMTMC-reid"
    put(folder, "bounding_box_train/0004_03.jpg", "query/0007_03.jpg", "bounding_box_test/0007_03.jpg")
    with pytest.raises(DataError, match=r"bounding_box_train/0004_03\.jpg has a name without an identity and a camera"):
        PDukeMTMC(str(tmp_path))


def test_an_empty_training_folder_is_an_error(tmp_path):
    raw(tmp_path / "P-DukeMTMC-reid")
    (tmp_path / "P-DukeMTMC-reid/train/whole_body_images/0030/0030_c3_f0000009.jpg").unlink()
    with pytest.raises(DataError, match="train/whole_body_images has no images, it holds subfolder 0030; fill it"):
        PDukeMTMC(str(tmp_path))


def test_persons_in_training_and_test(tmp_path):
    raw(tmp_path / "P-DukeMTMC-reid")
    put(tmp_path / "P-DukeMTMC-reid/test/whole_body_images", "0004/0004_c2_f0000077.jpg")
    with pytest.raises(DataError, match="1 person in both the train and the gallery split of .*: 4; unpack"):
        PDukeMTMC(str(tmp_path))
