"""A user's images by path: what is read of folders, names, patterns and CSVs, and what is drawn where nothing tells."""

import collections
import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from occplug.datasets import by_path
from occplug.datasets.by_path import GALLERY_CAMERA, KINDS, QUERY_CAMERA, dataset_class, is_ours
from occplug.errors import ConfigError, DataError
from tests.datasets.trees import market_tree, put, told

MARKET = [f"{pid:04d}_c{camera}s1_000151_01.jpg" for pid in range(1, 9) for camera in (1, 2, 4)]


def load(name, **options):
    return dataset_class(name)(verbose=False, **{"mode": "train", **options})


def sides(data):
    return {"train": data.train, "query": data.query, "gallery": data.gallery}


def write_csv(file: Path, rows: list[dict]) -> Path:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def people(folder: Path, persons=("ann", "bob", "cy", "dee"), images=3) -> None:
    for person in persons:
        put(folder / person, *(f"{number}.jpg" for number in range(images)))  # the same names in each folder


def check_drawn(data):
    """Persons of the training set are not tested, and every query has a match that the rule leaves in."""
    own = {data.pids[label] for _, label, *_ in data.train}
    tested = collections.defaultdict(set)
    for _, pid, camid, _ in data.gallery:
        tested[pid].add(camid)
    assert not own & tested.keys()
    assert data.query and all(tested[pid] - {camid} for _, pid, camid, _ in data.query)
    paths = [item[0] for side in sides(data).values() for item in side]
    assert len(paths) == len(set(paths))


# ---- what is read


def test_one_folder_a_person_without_cameras(tmp_path):
    people(tmp_path)
    data = load(f"folder:{tmp_path}")
    check_drawn(data)
    assert not data.has_cameras
    assert (len(data.pids), len(data.train), len(data.query), len(data.gallery)) == (2, 6, 2, 4)
    assert {camid for *_, camid, _ in data.train} == {0}
    assert {item[2] for item in data.query} == {QUERY_CAMERA} and {item[2] for item in data.gallery} == {GALLERY_CAMERA}
    assert data.pid_of == {"ann": 1, "bob": 2, "cy": 3, "dee": 4}


def test_known_names_without_folders(tmp_path):
    put(tmp_path, *MARKET, "-1_c1s1_000151_01.jpg")
    (tmp_path / "notes.txt").write_text("x")
    data = load(f"folder:{tmp_path}")
    check_drawn(data)
    assert data.has_cameras
    assert set(data.pids) | {item[1] for item in data.gallery} == set(range(1, 9))
    assert {item[2] for item in data.query + data.gallery} == {0, 1, 2}, "cameras 1, 2 and 4"
    assert dict(data.left_out) == {"junk (person -1)": 1, "ending .txt": 1}


@pytest.mark.parametrize(
    ("names", "pid", "camid"),
    [
        (["0007_000_03_0303morning_0008_0.jpg", "0008_000_05_0303noon_0008_0.jpg"], 7, True),
        (["1_007_1_01.png", "1_008_2_01.png"], 7, True),
        (["007_01.tif", "008_01.tif"], 7, False),
    ],
)
def test_other_known_names(tmp_path, names, pid, camid):
    put(tmp_path, *names)
    rows = dataset_class(f"folder:{tmp_path}").func._rows
    data = KINDS["folder"].__new__(KINDS["folder"])
    data.name, data.pattern, data.dataset_dir, data.left_out = "folder:", "", str(tmp_path), collections.Counter()
    found = rows(data)
    assert (int(found[0].person), found[0].camera is not None) == (pid, camid)


@pytest.mark.parametrize(
    "name", ["{}/c1_{}.jpg", "{}/cam2/{}.jpg", "{}/000{}_c3s1_000451_03.jpg", "{}/x-camera-2_{}.jpg"]
)
def test_cameras_below_a_persons_folder(tmp_path, name):
    put(tmp_path, *(name.format(person, number) for person in "ab" for number in range(2)))
    data = KINDS["folder"].__new__(KINDS["folder"])
    data.name, data.pattern, data.dataset_dir, data.left_out = "folder:", "", str(tmp_path), collections.Counter()
    assert all(row.camera in ("1", "2", "3") for row in data._rows())


def test_folders_of_the_splits_are_as_market_says(tmp_path):
    market_tree(tmp_path, train=(3, 7), test=(1, 2))
    put(tmp_path / "extra", "x.jpg")
    data = load(f"folder:{tmp_path}")
    named = load("market1501", root=str(market(tmp_path)))
    for side in ("train", "query", "gallery"):
        assert told(getattr(data, side)) == told(getattr(named, side))
    assert data.left_out["beside the folders of the splits"] == 1
    assert not data.is_drawn


def market(folder: Path) -> Path:
    root = folder.parent / "named"
    market_tree(root / "market1501", train=(3, 7), test=(1, 2))
    return root


def test_a_pattern_finds_person_camera_and_split(tmp_path):
    put(tmp_path, *(f"{split}/x-{p}/{c}.jpg" for split, p in (("train", "a"), ("test", "b")) for c in "uvw"))
    data = load(f"folder:{tmp_path}", pattern=r"(?P<split>train|test)/x-(?P<pid>\w+)/(?P<camid>\w)\.")
    assert data.pid_of == {"a": 1, "b": 2} and data.has_cameras and data.is_drawn
    assert [len(side) for side in sides(data).values()] == [3, 2, 1]


def test_a_csv_names_paths_persons_cameras_and_splits(tmp_path):
    put(tmp_path / "crops", *(f"{n}.jpg" for n in range(6)))
    splits = ["train", "train", "query", "gallery", "query", "gallery"]
    rows = [
        {"path": f"crops/{n}.jpg", "pid": 5 * (n // 2), "camid": 2 + 5 * (n % 2), "split": split}
        for n, split in enumerate(splits)
    ]
    data = load(f"csv:{write_csv(tmp_path / 'people.csv', rows)}")
    assert told(data.query) == [("2.jpg", 5, 0), ("4.jpg", 10, 0)]
    assert told(data.gallery) == [("3.jpg", 5, 1), ("5.jpg", 10, 1)]
    assert told(data.train) == [("0.jpg", 0, 0), ("1.jpg", 0, 1)] and data.pids == [0]


@pytest.mark.parametrize("camera", ["camera", "camera_id", "camid"])
def test_columns_may_be_named_as_boxes_name_them(tmp_path, camera):
    put(tmp_path, *(f"{n}.jpg" for n in range(4)))
    rows = [{"path": f"{n}.jpg", "person_id": n // 2, camera: n % 2, "pid_of_hall": 1} for n in range(4)]
    data = load(f"csv:{write_csv(tmp_path / 'p.csv', rows)}", combineall=True)
    assert data.has_cameras and data.cameras == [1, 2] and len(data.pids) == 2
    both = [{**row, "pid": 7, "camid": row["path"]} for row in rows]
    with pytest.raises(DataError, match="all images are of one person"):  # pid counts, not person_id
        load(f"csv:{write_csv(tmp_path / 'both.csv', both)}")


# ---- what is drawn


@pytest.mark.parametrize("cameras", [True, False])
def test_a_drawn_split_follows_its_number_and_can_be_given_again(tmp_path, cameras):
    put(tmp_path / "d", *MARKET) if cameras else people(tmp_path / "d", "abcdefgh")
    first, again, other = (load(f"folder:{tmp_path / 'd'}", split_id=n) for n in (0, 0, 1))
    assert sides(first) == sides(again) and first.fingerprint == again.fingerprint
    assert sides(first) != sides(other) and first.fingerprint != other.fingerprint
    for data in (first, other):
        check_drawn(data)
        assert len(data.pids) == 4
    columns = ["path", "pid", "camid", "split"]
    rows = [{k: v for k, v in zip(columns, row) if v} for row in first.rows]
    given = load(f"csv:{write_csv(tmp_path / 'split.csv', rows)}", split_id=7)
    assert sides(given) == sides(first) and given.fingerprint == first.fingerprint and not given.is_drawn


def test_no_query_is_drawn_that_would_leave_another_without_a_match(tmp_path):
    put(tmp_path, *(f"{pid:04d}_c{camera}_1.jpg" for pid in range(1, 5) for camera in (1, 2)))
    data = load(f"folder:{tmp_path}")
    check_drawn(data)
    assert (len(data.query), len(data.gallery)) == (2, 2)


def test_all_images_of_one_camera_train_and_are_refused_as_a_target(tmp_path):
    put(tmp_path, *(f"{pid:04d}_c1_{n}.jpg" for pid in range(1, 5) for n in range(3)))
    data = load(f"folder:{tmp_path}")
    assert data.train and not data.query
    with pytest.raises(DataError, match="no query images.*no person.* has two images of different cameras"):
        load(f"folder:{tmp_path}", mode="query")


def test_all_images_are_trained_on_with_combineall(tmp_path):
    people(tmp_path)
    data = load(f"folder:{tmp_path}", combineall=True)
    assert len(data.train) == 12 and len(data.pids) == 4 and data.cameras == [1]
    assert {camid for *_, camid, _ in data.train} == {0}


def test_a_circle_of_links_ends(tmp_path):
    people(tmp_path)
    (tmp_path / "ann" / "up").symlink_to(tmp_path)
    assert len(load(f"folder:{tmp_path}", combineall=True).train) == 12


# ---- mistakes


def mistakes(tmp_path):
    people(tmp_path / "good")
    put(tmp_path / "mixed", "a/1.jpg", "2.jpg")
    put(tmp_path / "strange", "ann.jpg", "0001_c1_2.jpg")
    put(tmp_path / "one", "a/1.jpg", "a/2.jpg")
    (tmp_path / "none").mkdir()
    yield "folder:nowhere", {}, "folder:nowhere: there is no folder .*nowhere; check the path"
    yield f"folder:{tmp_path / 'none'}", {}, "has no images, it holds nothing"
    yield f"folder:{tmp_path / 'mixed'}", {}, r"2\.jpg lie beside folders with images"
    yield f"folder:{tmp_path / 'strange'}", {}, r"ann\.jpg have names without an identity.*--pattern"
    yield f"folder:{tmp_path / 'one'}", {}, "all images are of one person.*--pattern"
    yield f"folder:{tmp_path / 'good'}", {"pattern": "(?P<pid>"}, "data.pattern is .* no regular expression"
    yield f"folder:{tmp_path / 'good'}", {"pattern": "(?P<person>.)"}, "must have the group .*but it has person"
    yield f"folder:{tmp_path / 'good'}", {"pattern": r"(?P<pid>\d\d)"}, r"ann/0\.jpg.* do not fit data.pattern"
    yield "foldr:x", {}, "not named by 'foldr'; there are: folder:PATH, csv:PATH"
    yield "csv:", {}, "csv: has no path; write csv:PATH"
    yield "csv:nowhere.csv", {}, "there is no file .*nowhere.csv"


def test_mistakes_in_folders_are_named_with_their_cure(tmp_path):
    for name, options, message in mistakes(tmp_path):
        with pytest.raises((DataError, ConfigError), match=message):
            load(name, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,person\na.jpg,1\n", "the header is 'file,person' and lacks path and pid.*columns path, pid"),
        ("path;pid\na.jpg;1\n", "the header is 'path;pid' with semicolons; put commas between the columns"),
        ("path\tpid\na.jpg\t1\n", "with tabs; put commas between the columns"),
        ("path,pid,pid\na.jpg,1,1\n", "names pid twice"),
        ("path,pid\n", "lists no images below its header"),
        ("", "the header is ''"),
        ("path,pid\na.jpg,\n", "line 2: pid is empty"),
        ("path,pid,camid\na.jpg,1,\n", "line 2: camid is empty; fill it in on all lines, or leave the column out"),
        ("path,pid\na.jpg,1\nz.jpg,2\n", r"z\.jpg \(line 3\) do not exist; paths are relative to the folder"),
        ("path,pid\na.jpg,1\na.jpg,2\n", "lines 2 and 3 name the same image a.jpg"),
        ("path,pid\na.jpg,1\n./d/../a.jpg,2\n", "lines 2 and 3 name the same image ./d/../a.jpg; keep one"),
        ("path,pid,split\na.jpg,1,val\n", "line 2 has the split 'val'; there are: train, query, gallery, test"),
        ("path,pid,split\na.jpg,1,train\nb.jpg,1,query\nc.jpg,1,gallery\n", "1 person in both.*the same side"),
        ("path,pid\na.txt,1\n", "line 2: a.txt is no image"),
        ("path,pid\na.jpg,-1\n", "all 1 images are junk"),
        ("path,pid\na.jpg,1\n".encode("utf-16"), "p.csv is no CSV in UTF-8: save it as one"),
        (b"path,pid\n\xff\xfe.jpg,1\n", r"\(line 2\) do not exist; .*; it is no CSV in UTF-8"),
    ],
)
def test_mistakes_in_a_csv_are_named_with_their_cure(tmp_path, text, message):
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "p.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        load(f"csv:{tmp_path / 'p.csv'}")


def test_names_are_ours_or_torchreids():
    assert is_ours("folder:x") and is_ours("csv:x.csv") and is_ours("occluded_duke")
    assert not is_ours("viper") and not is_ours("foldr:x")


def test_a_file_under_two_persons_is_refused_however_it_is_named(tmp_path):
    put(tmp_path, "crops/ann/0.jpg", "crops/ann/1.jpg", "crops/zoe/2.jpg")
    (tmp_path / "crops/zoe/0.jpg").symlink_to(tmp_path / "crops/ann/0.jpg")
    with pytest.raises(DataError, match="ann/0.jpg and .*zoe/0.jpg are the same image, under the identities ann and"):
        by_path.FolderImages(str(tmp_path / "crops"))
    (tmp_path / "p.csv").write_text("path,pid\ncrops/ann/0.jpg,1\ncrops/zoe/2.jpg,2\ncrops/zoe/0.jpg,3\n")
    with pytest.raises(DataError, match="lines 2 and 4 name the same image crops/zoe/0.jpg"):
        by_path.CsvImages(str(tmp_path / "p.csv"))
    Image.new("RGB", (20, 40)).save(tmp_path / "frame.png")
    box = {"image_id": 1, "bbox": [0, 0, 10, 20]}
    rows = [{**box, "person_id": "ann"}, {**box, "person_id": "zoe"}]
    (tmp_path / "b.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "frame.png"}], "annotations": rows}))
    with pytest.raises(DataError, match="are the same image, under the identities ann and zoe"):
        by_path.BoxImages(str(tmp_path / "b.json"))
