"""`coco:FILE`: boxes of persons in frames, as a data set and for embeddings, and every mistake by file and key."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from occplug.datasets.boxes import read_boxes, with_frames
from occplug.datasets.by_path import dataset_class, is_ours
from occplug.errors import DataError
from occplug.serving.pictures import open_source, read_named


@pytest.fixture
def frames(tmp_path):
    """Two frames of 60 x 40 random pixels, and eight boxes: four persons, each in both."""
    rng = np.random.default_rng(0)
    images, rows = [], []
    for n in range(2):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / f"f{n}.png")
        images.append({"id": n, "file_name": f"f{n}.png", "width": 60, "height": 40, "camera": f"hall {n}"})
        for person in range(4):
            box = {"image_id": n, "bbox": [15 * person - 0.5, 4.2, 10, 30.1], "person_id": f"p{person}"}
            rows.append({**box, "id": 10 * n + person, "category_id": 1})
    rows.append({"image_id": 0, "bbox": [0, 0, 60, 40], "category_id": 1, "iscrowd": 1})
    rows.append({"image_id": 0, "bbox": [0, 0, 9, 9], "category_id": 2})
    return {
        "images": images,
        "annotations": rows,
        "categories": [{"id": 1, "name": "Person"}, {"id": 2, "name": "dog"}],
    }


def written(folder, content):
    file = folder / "boxes.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def test_parts_of_frames_are_the_pixels_inside(tmp_path, frames):
    file = written(tmp_path, frames)
    boxes, left_out = read_boxes(file)
    assert len(boxes) == 8 and left_out == {"crowds (iscrowd)": 1, "of another category than person": 1}
    whole = np.array(Image.open(tmp_path / "f1.png"))
    expected = {6: whole[4:35, 29:40], 4: whole[4:35, 0:10]}  # rounded outwards, cut at the border
    sources, count = open_source(f"coco:{file}")
    sources = list(sources)
    assert count == 8 and sources[6].name == f"{tmp_path}/f1.png[29,4,40,35]"
    for place, pixels in expected.items():
        np.testing.assert_array_equal(np.array(sources[place].read()), pixels)
        np.testing.assert_array_equal(np.array(read_named(sources[place].name)), pixels)
    assert [s.name for s in open_source([f"coco:{file}", tmp_path / "f0.png"])[0]][-1] == str(tmp_path / "f0.png")


def test_a_frame_is_decoded_once_and_dropped(tmp_path, frames, monkeypatch):
    from occplug.datasets import boxes as module

    opened = []
    monkeypatch.setattr(module, "open_picture", lambda path: opened.append(path) or Image.new("RGB", (60, 40)))
    pairs = list(with_frames(read_boxes(written(tmp_path, frames))[0]))
    for box, frame in pairs:
        frame.cut(box)
    assert len(opened) == 2 and all(frame._picture is None for _, frame in pairs)


def test_boxes_are_a_data_set(tmp_path, frames):
    file = written(tmp_path, frames)
    name = f"coco:{file}"
    assert is_ours(name)
    data = dataset_class(name)(verbose=False, mode="train")
    assert data.has_cameras and len(data.pids) == 2 and len(data.train) == 4
    assert (len(data.query), len(data.gallery)) == (2, 2)
    picture = Image.open(data.train[0][0])
    assert picture.format == "PNG" and picture.size in {(10, 31), (11, 31)}
    crops = tmp_path / "boxes.json.crops"
    before = {path: path.stat().st_mtime_ns for path in crops.iterdir()}
    assert len(before) == 8
    again = dataset_class(name)(verbose=False, mode="train")
    assert again.fingerprint == data.fingerprint
    assert {path: path.stat().st_mtime_ns for path in crops.iterdir()} == before
    frames["annotations"][0]["bbox"] = [3, 3, 20, 20]
    written(tmp_path, frames)
    edited = dataset_class(name)(verbose=False, mode="train")
    assert len(list(crops.iterdir())) == 9 and edited.fingerprint != data.fingerprint


def changed(content, path, value):
    *parents, last = path
    for key in parents:
        content = content[key]
    if value is None:
        del content[last]
    else:
        content[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["images"], None, r"boxes.json: images is missing; it must be a list"),
        (["annotations"], {}, r"boxes.json: annotations is no list"),
        (["images", 1, "file_name"], None, r"boxes.json: images\[1\].file_name is missing or no text"),
        (["images", 1, "id"], 0, r"boxes.json: images\[1\].id is 0, which another image has, too"),
        (["annotations", 3, "image_id"], 7, r"boxes.json: annotations\[3\].image_id is 7, and no image has this id"),
        (["annotations", 3, "bbox"], [1, 2, 3], r"annotations\[3\].bbox is \[1, 2, 3\]; it must be \[x, y, width"),
        (["annotations", 3, "bbox"], [1, 2, float("nan"), 3], r"annotations\[3\].bbox is .* it must be"),
        (["annotations", 3, "bbox"], [1, 2, 1e12, 3], r"annotations\[3\].bbox is .* it must be"),
        (["annotations", 3, "bbox"], [1, 2, 0, 3], r"annotations\[3\].bbox is .* and holds no pixel of the frame f0"),
        (["annotations", 3, "bbox"], [60, 2, 5, 3], r"holds no pixel of the frame f0.png of 60x40"),
        (["annotations", 3, "person_id"], None, r"annotations\[3\] has no person_id \(or pid\)"),
        (["annotations", 3, "person_id"], [1], r"annotations\[3\]: person_id is \[1\]; it must be a whole number"),
        (["annotations", 3, "split"], "dev", r"annotations\[3\].split has the split 'dev'; there are: train, query"),
        (["categories", 0, "name"], "cat", r"boxes.json: categories has no 'person', it has: cat, dog"),
        (["images", 1, "width"], "60", r"images\[1\].width is '60'; it must be a whole number of pixels"),
        (["images", 1, "height"], float("nan"), r"images\[1\].height is nan; it must be a whole number of pixels"),
        (["images", 1, "height"], 0, r"images\[1\].height is 0; it must be a whole number of pixels"),
        (["images", 0, "width"], 90, r"annotations\[0\]: its boxes are in a frame of 90x40 pixels, and .* has 60x40;"),
        (["images", 1, "file_name"], "no.png", r"annotations\[4\]: the frame .*no.png cannot be read \(No such file"),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_key(tmp_path, frames, path, value, message):
    changed(frames, path, value)
    if path[-1] == "split":
        for row in frames["annotations"][:3] + frames["annotations"][4:]:
            row["split"] = "train"
    with pytest.raises(DataError, match=message):
        dataset_class(f"coco:{written(tmp_path, frames)}")(verbose=False, mode="train")


def test_boxes_of_a_frame_that_is_turned_or_resized_since_are_refused(tmp_path, frames):
    """Frames are read upright: boxes made on the pixels as stored would cut out something else."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(tmp_path / "f0.png").save(tmp_path / "f0.png", exif=exif)
    sources, _ = open_source(f"coco:{written(tmp_path, frames)}")
    message = "frame of 60x40 pixels, and .*f0.png has 40x60 once it is turned as its orientation tag says"
    with pytest.raises(DataError, match=message):
        next(sources).read()
    frames["images"][0] |= {"width": 40, "height": 60}
    for row in frames["annotations"]:
        row["bbox"] = [1, 1, 20, 30]
    sources, _ = open_source(f"coco:{written(tmp_path, frames)}")
    assert next(sources).read().size == (20, 30)
    for side in ("width", "height"):  # who does not say the size is believed
        del frames["images"][0][side]
    sources, _ = open_source(f"coco:{written(tmp_path, frames)}")
    assert next(sources).read().size == (20, 30)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "is a list; it must be an object with images and annotations"),
        ('{"images": [], "annotations": []}', r"it has no box of a person \(annotations is empty\)"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_boxes(written(tmp_path, text))


def test_a_full_disk_is_said_before_cutting(tmp_path, frames, monkeypatch):
    from occplug.datasets import by_path

    free = by_path.shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(by_path.shutil, "disk_usage", lambda path: free)
    with pytest.raises(DataError, match=r"8 crops take up to .* MiB left; make room, or list fewer boxes"):
        dataset_class(f"coco:{written(tmp_path, frames)}")(verbose=False, mode="train")


def test_the_same_frames_elsewhere_and_copied_later_are_the_same_version(tmp_path, frames):
    """Runs resume and compare on a moved copy; another box, person or picture is another version."""
    first = dataset_class(f"coco:{written(tmp_path, frames)}")(mode="train").fingerprint
    copy = tmp_path / "elsewhere" / "deeper"
    copy.mkdir(parents=True)
    for n in range(2):
        shutil.copy(tmp_path / f"f{n}.png", copy)
        os.utime(copy / f"f{n}.png", (1, 1))
    versions = []
    for change in ({}, {"person_id": "p9"}, {"bbox": [0, 4, 11, 30]}):
        rows = [{**frames["annotations"][0], **change}, *frames["annotations"][1:]]
        file = written(copy, {**frames, "annotations": rows})
        versions.append(dataset_class(f"coco:{file}")(mode="train").fingerprint)
    assert versions[0] == first and len(set(versions)) == 3
