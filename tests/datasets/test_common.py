"""Rules that hold for every data set: labels, order, checks, messages, caching."""

import logging
import os
import re
import time

import pytest
import torch

import occplug
from occplug.datasets import common, listing
from occplug.datasets.occluded_duke import OccludedDuke
from occplug.errors import ConfigError, DataError
from occplug.registry import DATASETS, get, names
from occplug.torchreid_host import ImageDataManager
from tests.datasets.trees import market_tree, put, told

LAYOUT = "accepted layouts: Occluded_Duke/{bounding_box_train, query, bounding_box_test}"


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "Occluded_Duke"
    market_tree(folder, name="{:04d}_c{}_f0046182.jpg")
    return folder


def load(root, **options):
    return OccludedDuke(root=str(root), verbose=False, **options)


def message(root, **options) -> str:
    with pytest.raises(DataError) as caught:
        load(root, **options)
    return str(caught.value)


# ---- labels and order


def test_labels_follow_sorted_person_numbers(home):
    data = load(home.parent)
    assert data.pids == [3, 7] and data.cameras == [1, 2]
    assert told(data.train) == [
        ("0003_c1_f0046182.jpg", 0, 0),
        ("0003_c2_f0046182.jpg", 0, 1),
        ("0007_c1_f0046182.jpg", 1, 0),
        ("0007_c2_f0046182.jpg", 1, 1),
    ]
    assert told(data.query) == [("0001_c1_f0046182.jpg", 1, 0), ("0002_c1_f0046182.jpg", 2, 0)]
    assert {(pid, camid) for _, pid, camid, _ in data.gallery} == {(1, 0), (1, 1), (2, 0), (2, 1)}


def test_camids_index_cameras_even_if_a_camera_is_unused(tmp_path):
    market_tree(tmp_path / "Occluded_Duke", cameras=(2, 5))
    data = load(tmp_path)
    assert data.cameras == [1, 2, 3, 4, 5]
    assert {data.cameras[camid] for _, _, camid, _ in data.train} == {2, 5}


def test_other_files_are_passed_over(home):
    for split in ("bounding_box_train", "query", "bounding_box_test"):
        for name in ("Thumbs.db", ".hidden.jpg", "._0003_c1_f0046182.jpg", "README.txt"):
            (home / split / name).write_text("no image")
        put(home / split / "subfolder", "notes.jpg")
    assert len(load(home.parent).train) == 4


def test_junk_is_left_out_and_distractors_stay(home):
    put(home / "bounding_box_test", "-1_c1_f0000001.jpg", "0000_c2_f0000002.jpg")
    data = load(home.parent)
    assert [pid for _, pid, *_ in data.gallery] == [0, 1, 1, 2, 2]


def test_combineall_makes_test_images_training_images_with_sorted_labels(home):
    put(home / "bounding_box_test", "0000_c3_f0000002.jpg")
    data = load(home.parent, combineall=True)
    assert data.pids == [3, 7, 1, 2] and data.num_train_pids == 4
    assert [pid for _, pid, *_ in data.train] == [0, 0, 1, 1, 2, 3, 2, 2, 3, 3]
    assert len(data.train) == len(data) == 10 and data.num_train_cams == 2


# ---- where it lies


@pytest.mark.parametrize(
    "path",
    [
        "Occluded_Duke",
        "Occluded-Duke",
        "occluded_duke",
        "Occluded-DukeMTMC-reID",
        "Occluded-DukeMTMC",
        "occluded_dukemtmc",
        "dukemtmcreid/Occluded_Duke",
        "DukeMTMC-reID/Occluded_Duke",
        "occ_duke/Occluded_Duke",
        "occluded_duke/Occluded-DukeMTMC-reID",
        "ICME2018_Occluded-Person-Reidentification_datasets/Occluded_Duke",
    ],
)
def test_folders_seen_in_public_repositories_are_found(tmp_path, path):
    market_tree(tmp_path / path)
    assert load(tmp_path).dataset_dir == str(tmp_path / path)


def test_the_root_may_be_the_folder_itself(home):
    assert len(load(home).train) == 4


def test_another_sets_folder_is_not_taken_for_this_one(tmp_path):
    market_tree(tmp_path / "Market-1501-v15.09.15")
    assert "holds no folder Occluded_Duke" in message(tmp_path / "Market-1501-v15.09.15")


def test_a_tilde_and_a_relative_root_are_understood(home, monkeypatch):
    monkeypatch.chdir(home.parent)
    assert load("").dataset_dir == str(home)
    monkeypatch.setenv("HOME", str(home.parent))
    assert load("~").dataset_dir == str(home)


# ---- errors


def test_missing_root(tmp_path):
    assert message(tmp_path / "nowhere") == (
        f"occluded_duke: the data root {tmp_path}/nowhere is not a folder; "
        "set data.root (or --root) to the folder that holds Occluded_Duke"
    )


def test_no_such_folder_in_the_root(tmp_path):
    put(tmp_path, "Market/a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "note.txt").touch()
    assert message(tmp_path) == (
        f"occluded_duke: {tmp_path} holds no folder Occluded_Duke or Occluded-DukeMTMC-reID or Occluded-DukeMTMC or "
        "Occluded-DukeMTMC-Dataset or occ_duke, but subfolder Market, 2 files with .jpg, 1 file with .txt; "
        f"set data.root (or --root) to the folder that holds it; {LAYOUT}"
    )


def test_wrong_layout(tmp_path):
    folder = tmp_path / "Occluded_Duke"
    put(folder, "train/a.jpg", "test/a.jpg", "query/a.jpg")
    (folder / "train.list").touch()
    assert message(tmp_path) == (
        f"occluded_duke: its folder has an unknown layout: {folder} holds subfolders query, test, train, "
        f"1 file with .list; {LAYOUT}"
    )


@pytest.mark.parametrize("split", ["bounding_box_train", "query", "bounding_box_test"])
def test_empty_split(home, split):
    for path in (home / split).iterdir():
        path.unlink()
    assert message(home.parent) == (
        f"occluded_duke: {home}/{split} has no images, it holds nothing; "
        f"fill it with the images of the data set; {LAYOUT}"
    )


def test_a_split_without_images_says_what_it_holds(home):
    for path in (home / "query").iterdir():
        path.rename(path.with_suffix(".npy"))
    for number in range(8):
        put(home / "query", f"person{number}/0001_c1_f0046182.jpg")
    (home / "query" / "list").touch()
    assert (
        "/query has no images, it holds subfolders person0, person1, person2, person3, person4, person5, ... "
        "(8 in all), 2 files with .npy, 1 file with no ending;"
    ) in message(home.parent)


def test_a_name_that_cannot_be_read(home):
    put(home / "query", "img_12.jpg")
    assert message(home.parent) == (
        f"occluded_duke: {home}/query/img_12.jpg has a name without an identity and a camera (1, 2, ...); it must "
        r"match (?P<pid>-?\d+)_c(?P<camera>\d+); rename it, or move it elsewhere"
    )


def test_camera_0_is_no_camera(home):
    put(home / "query", "0001_c0_f0000001.jpg")
    assert "0001_c0_f0000001.jpg has a name without an identity and a camera (1, 2, ...)" in message(home.parent)


def test_two_files_of_one_name(home):
    put(home / "query", "0001_c1_f0046182.png")
    assert message(home.parent) == (
        f"{home}/query/0001_c1_f0046182.jpg and {home}/query/0001_c1_f0046182.png have the same name; "
        "delete or rename one of them"
    )


@pytest.mark.parametrize(("folder", "split"), [("query", "query"), ("bounding_box_test", "gallery")])
def test_persons_in_training_and_test(home, folder, split):
    put(home / "bounding_box_train", *(f"{pid:04d}_c1_f0000001.jpg" for pid in range(11, 18)))
    put(home / folder, *(f"{pid:04d}_c3_f0000002.jpg" for pid in range(11, 18)))
    assert message(home.parent) == (
        f"occluded_duke: 7 persons in both the train and the {split} split of {home}: 11, 12, 13, 14, 15, ...; "
        "unpack the data set again"
    )


def test_distractors_are_no_persons_in_both(home):
    put(home / "bounding_box_train", "0000_c1_f0000001.jpg")
    put(home / "bounding_box_test", "0000_c1_f0000001.jpg")
    assert load(home.parent).pids == [0, 3, 7]


def test_unknown_options_are_errors_and_torchreids_are_not(home):
    with pytest.raises(ConfigError, match="^the data set occluded_duke has no option severity, sise$"):
        load(home.parent, severity=1, sise=2)
    load(home.parent, split_id=0, cuhk03_labeled=True, cuhk03_classic_split=False, market1501_500k=False, k_tfm=1)


def test_a_folder_that_cannot_be_read(tmp_path):
    place = re.escape(str(tmp_path))
    with pytest.raises(DataError, match=rf"^{place}/gone cannot be read \(No such file or directory\)$"):
        listing.list_images(str(tmp_path / "gone"))


# ---- published counts


def test_other_counts_than_published_are_named_once(home, caplog):
    with caplog.at_level(logging.WARNING):
        load(home.parent)
        load(home.parent)
    start = f"occluded_duke: the {{}} split in {home} is not as published: "
    assert [record.message for record in caplog.records] == [
        start.format("train") + "4 images, not 15618, 2 ids, not 702, 2 cameras, not 8",
        start.format("query") + "2 images, not 2210, 2 ids, not 519, 1 cameras, not 8",
        start.format("gallery") + "4 images, not 17661, 2 ids, not 1110, 2 cameras, not 8",
    ]


def test_the_published_counts_give_no_warning(home, caplog, monkeypatch):
    put(home / "bounding_box_test", "0000_c1_f0000001.jpg")  # distractors are no ids
    counts = {"train": (4, 2, 2), "query": (2, 2, None), "gallery": (5, 2, 2)}
    monkeypatch.setattr(OccludedDuke, "published", {split: common.Counts(*c) for split, c in counts.items()})
    load(home.parent)
    assert caplog.records == []


@pytest.mark.parametrize("name", sorted(set(names(DATASETS)) - {"synthocc"}))
def test_every_set_states_its_published_counts(name):
    cls = get(DATASETS, name)
    splits = {"query", "gallery"} | ({"train"} if cls.layouts[0].train else set())
    assert cls.name == name and cls.published.keys() == splits
    assert all(counts.images for counts in cls.published.values())


# ---- fingerprint


def test_the_fingerprint_follows_names_sizes_and_splits_but_not_the_place(tmp_path):
    for place in ("a", "b"):
        market_tree(tmp_path / place / "Occluded_Duke")
    first = load(tmp_path / "a").fingerprint
    assert len(first) == 64 and load(tmp_path / "b").fingerprint == first
    (tmp_path / "b/Occluded_Duke/query/0001_c1s1_000151_01.jpg").write_bytes(b"longer")
    put(tmp_path / "b/Occluded_Duke/query", "0009_c1s1_000151_01.jpg")
    (tmp_path / "b/Occluded_Duke/query/0009_c1s1_000151_01.jpg").unlink()  # the folder has changed: listed again
    changed = load(tmp_path / "b").fingerprint
    put(tmp_path / "a/Occluded_Duke/query", "0009_c1s1_000151_01.jpg")
    assert len({first, changed, load(tmp_path / "a").fingerprint}) == 3


# ---- speed


def test_a_folder_is_listed_once_until_it_changes(home, monkeypatch):
    scans = []
    scan = listing._scan
    monkeypatch.setattr(listing, "_scan", lambda folder, *how: scans.append(folder) or scan(folder, *how))
    for _ in range(3):
        load(home.parent)
    assert len(scans) == 3  # one per split
    put(home / "query", "0002_c2_f0046182.jpg")
    assert len(load(home.parent).query) == 3 and len(scans) == 4


def test_30000_images_a_second(tmp_path):
    folder = tmp_path / "Occluded_Duke"
    market_tree(folder)
    for number in range(3000):
        os.mknod(f"{folder}/bounding_box_train/{number % 700 + 10:04d}_c1_f{number:07d}.jpg")
    spent = []
    for _ in range(3):
        listing._listings.clear()
        start = time.process_time()
        assert len(load(tmp_path).train) == 3004
        spent.append(time.process_time() - start)
    assert min(spent) < 3000 / 30_000


# ---- in torchreid


@pytest.fixture
def registered():
    occplug.register()
    yield
    occplug.unregister()


def test_torchreids_manager_trains_and_tests_on_it(home, registered):
    market_tree(home.parent / "Market-1501-v15.09.15", train=(5, 6), test=(8, 9))
    manager = ImageDataManager(
        root=str(home.parent), sources=["occluded_duke", "market1501"], targets="occluded_duke", height=32, width=16,
        batch_size_train=4, batch_size_test=4, workers=0, use_gpu=False,
    )  # fmt: skip
    assert manager.num_train_pids == 4
    batch = next(iter(manager.train_loader))
    assert batch["img"].shape == (4, 3, 32, 16) and batch["impath"][0].endswith(".jpg")
    assert set(batch) == {"img", "pid", "camid", "impath", "dsetid"}
    pids = torch.cat([batch["pid"] for batch in manager.test_loader["occluded_duke"]["gallery"]])
    assert pids.tolist() == [1, 1, 2, 2]


def test_a_set_without_training_images_is_a_target_but_no_source(tmp_path, registered):
    market_tree(tmp_path / "market1501")
    put(tmp_path / "Occluded_REID", "occluded_body_images/001/001_01.tif", "whole_body_images/001/001_01.tif")
    options = {"root": str(tmp_path), "height": 32, "width": 16, "batch_size_train": 4, "workers": 0, "use_gpu": False}
    manager = ImageDataManager(sources="market1501", targets="occluded_reid", **options)
    batch = next(iter(manager.test_loader["occluded_reid"]["gallery"]))
    assert batch["pid"].tolist() == [1] and batch["camid"].tolist() == [2]
    with pytest.raises(DataError) as caught:
        ImageDataManager(sources="occluded_reid", targets="occluded_reid", **options)
    assert str(caught.value) == (
        "occluded_reid has no training images: train on another set (data.sources: [market1501], or -s market1501) and "
        "keep occluded_reid in data.targets"
    )
