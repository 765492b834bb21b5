"""Occluder libraries: what is written is what is read, and every mistake has its message."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from occplug.errors import ConfigError, DataError
from occplug.occluders import Piece, read_categories, read_library, trimmed, write_library
from occplug.occluders.library import EMBEDDED_LIBRARY, premultiplied
from occplug.occluders.procedural import DRAWERS, pieces
from tests.occluders.libraries import disc, library, solid


def change_index(folder, change):
    file = f"{folder}/index.json"
    with open(file) as stream:
        content = json.load(stream)
    change(content["cutouts"])
    with open(file, "w") as stream:
        json.dump(content, stream)


def test_what_is_written_is_read(tmp_path):
    rgba = disc(colour=(200, 100, 50))
    rgba[40:, :, 3] //= 2
    folder = library(tmp_path / "l", bicycle=[solid(), rgba], fire_hydrant=solid(30, 20))
    read = read_library(folder)
    assert len(read) == 3 and {name: len(group) for name, group in read.by_category.items()} == {
        "bicycle": 2,
        "fire hydrant": 1,
    }
    cutout = read.by_category["bicycle"][1]
    assert np.array_equal(cutout.rgba[..., 3], rgba[..., 3]) and cutout.category == read_categories()["bicycle"]
    expected = rgba[..., :3] * (rgba[..., 3:] / 255.0)
    assert np.abs(cutout.rgba[..., :3] - expected).max() <= 0.5
    assert cutout.alpha_mean == pytest.approx(rgba[..., 3].mean() / 255) and cutout.aspect == 1
    (entry,) = [e for e in json.load(open(f"{folder}/index.json"))["cutouts"] if e["file"] == "fire_hydrant_000.png"]
    assert entry == {"file": "fire_hydrant_000.png", "category": "fire hydrant", "width": 20, "height": 30,
                     "alpha_mean": 1.0, "source": {}, "licence": "unknown", "split": "train"}  # fmt: skip


def test_the_log_says_which_cut_outs_are_used(tmp_path, caplog):
    folder = library(tmp_path / "l", bicycle=[solid(), solid(30, 20)])
    with caplog.at_level(logging.INFO):
        read_library(folder)
        read_library.__globals__["_read"].cache_clear()
        read_library()
    assert f"occluders: 2 cut-outs of {folder}" in caplog.text
    assert "occluders: the 144 drawn cut-outs of the package; `occplug build-occluders` makes a library" in caplog.text


def test_it_is_decoded_once(tmp_path):
    folder = library(tmp_path / "l", car=solid())
    assert read_library(folder) is read_library(folder)


def test_training_sees_only_its_split(tmp_path):
    write_library(tmp_path / "l", [Piece("car", solid())], split="test")
    with pytest.raises(DataError, match="no cut-out has split 'train'; the splits there are: test"):
        read_library(tmp_path / "l")
    assert len(read_library(tmp_path / "l", split="test")) == 1


def test_premultiplying_rounds():
    rgba = np.array([[[255, 100, 3, 128], [9, 9, 9, 0], [7, 8, 9, 255]]], np.uint8)
    assert premultiplied(rgba).tolist() == [[[128, 50, 2, 128], [0, 0, 0, 0], [7, 8, 9, 255]]]


def test_trimming_cuts_the_empty_border_and_shrinks():
    rgba = np.zeros((400, 600, 4), np.uint8)
    rgba[100:200, 50:450] = (10, 20, 30, 255)
    assert trimmed(rgba, 500).shape == (100, 400, 4)
    small = trimmed(rgba, 200)
    assert small.shape == (50, 200, 4) and (small == (10, 20, 30, 255)).all()


# ---- the library that comes with the package


def test_the_embedded_library_is_what_the_command_makes():
    read = read_library()
    assert len(read) == sum(1 for _ in (EMBEDDED_LIBRARY).glob("*.png")) and set(read.by_category) == set(DRAWERS)
    assert set(read.by_category) <= set(read_categories())
    entries = json.loads((EMBEDDED_LIBRARY / "index.json").read_text())["cutouts"]
    assert {entry["licence"] for entry in entries} == {"CC0-1.0"} and {entry["split"] for entry in entries} == {"train"}
    piece = next(pieces())  # drawing all takes half a minute
    with Image.open(EMBEDDED_LIBRARY / "person_000.png") as picture:
        stored = np.asarray(picture).astype(float)
    assert stored.shape == piece.rgba.shape
    visible = (stored[..., 3] > 0) & (piece.rgba[..., 3] > 0)
    assert np.abs(stored - piece.rgba)[visible].mean() < 2  # another OpenCV may differ by a grey level


def test_the_embedded_library_is_small_and_varied():
    read = read_library()
    assert sum(file.stat().st_size for file in EMBEDDED_LIBRARY.iterdir()) < 1.5e6
    for name, group in read.by_category.items():
        assert len(group) >= 6 and len({cutout.rgba.tobytes() for cutout in group}) == len(group), name
        for cutout in group:
            assert cutout.alpha_mean > 0.12 and min(cutout.rgba.shape[:2]) >= 12, cutout.file.name
            soft = (cutout.rgba[..., 3] > 0) & (cutout.rgba[..., 3] < 255)
            assert soft.any(), f"{cutout.file.name}: edges are anti-aliased"


@pytest.mark.parametrize("name", sorted(DRAWERS))
def test_every_drawing_depends_on_its_seed_alone(name):
    def drawn(seed):
        return trimmed(DRAWERS[name](np.random.default_rng(seed), 40))

    assert np.array_equal(drawn(3), drawn(3)) and max(drawn(3).shape[:2]) <= 40
    assert drawn(3).shape != drawn(4).shape or not np.array_equal(drawn(3), drawn(4))


# ---- mistakes


def test_no_folder(tmp_path):
    with pytest.raises(
        DataError, match="there is no such folder of occluders; `occplug build-occluders` makes a library"
    ):
        read_library(tmp_path / "nowhere")


def test_a_folder_without_index(tmp_path):
    with pytest.raises(DataError, match="the folder has no index.json, so it is no occluder library"):
        read_library(tmp_path)


def test_an_index_that_is_not_one(tmp_path):
    (tmp_path / "index.json").write_text("[1, 2")
    with pytest.raises(DataError, match=r"index.json: not an occluder index, which is json of the form"):
        read_library(tmp_path)


def test_an_entry_that_lacks_fields(tmp_path):
    folder = library(tmp_path / "l", car=solid())
    change_index(folder, lambda rows: rows[0].pop("licence"))
    with pytest.raises(DataError, match="entry 0 lacks licence; make the library again"):
        read_library(folder)


@pytest.mark.parametrize("change", [{"category": ["car"]}, {"file": None}])
def test_an_entry_that_is_not_text(tmp_path, change):
    folder = library(tmp_path / "l", car=solid())
    change_index(folder, lambda rows: rows[0].update(change))
    with pytest.raises(DataError, match="category and file of entry 0 are not both text; make the library again"):
        read_library(folder)


def test_a_missing_file(tmp_path):
    folder = library(tmp_path / "l", car=solid())
    (tmp_path / "l" / "car_000.png").unlink()
    with pytest.raises(DataError, match="car_000.png: the file that index.json names is missing; restore it"):
        read_library(folder)


def test_a_picture_without_alpha(tmp_path):
    folder = library(tmp_path / "l", car=solid())
    Image.new("RGB", (40, 60)).save(f"{folder}/car_000.png")
    with pytest.raises(DataError, match=r"car_000.png: the picture has no alpha channel \(mode RGB\)"):
        read_library(folder)


def test_an_empty_alpha(tmp_path):
    folder = library(tmp_path / "l", car=solid())
    Image.new("RGBA", (40, 60)).save(f"{folder}/car_000.png")
    with pytest.raises(DataError, match="car_000.png: the alpha channel is empty: nothing would be visible"):
        read_library(folder)


def test_a_damaged_picture(tmp_path):
    folder = library(tmp_path / "l", car=solid())
    (tmp_path / "l" / "car_000.png").write_bytes(b"no picture")
    with pytest.raises(
        DataError, match="car_000.png: the file is not an image, or none of JPEG.* replace it by an intact copy"
    ):
        read_library(folder)


def test_an_unknown_category(tmp_path):
    folder = library(tmp_path / "l", car=solid())
    change_index(folder, lambda rows: rows[0].update(category="cra"))
    with pytest.raises(DataError, match="car_000.png has the unknown category 'cra'; known are: person, bicycle, car"):
        read_library(folder)


def test_a_library_is_never_written_over(tmp_path):
    folder = library(tmp_path / "l", car=solid())
    with pytest.raises(ConfigError, match="l exists already; remove it, or name another folder"):
        library(folder, car=solid())


def test_an_interrupted_build_leaves_nothing(tmp_path):
    def breaking():
        yield Piece("car", solid())
        raise DataError("stop")

    for rows in (breaking(), []):
        with pytest.raises(DataError, match="stop|no cut-out was left"):
            write_library(tmp_path / "l", rows)
        assert list(tmp_path.iterdir()) == []


# ---- the table


def test_another_table(tmp_path):
    file = tmp_path / "t.yaml"
    file.write_text("tram: {anchor: bottom, cover: [0.2, 0.3], weight: 1}\n")
    write_library(tmp_path / "l", [Piece("tram", solid())])
    assert read_library(tmp_path / "l", categories=str(file)).cutouts[0].category.cover == (0.2, 0.3)
    with pytest.raises(DataError, match="unknown category 'tram'"):
        read_library(tmp_path / "l")


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: [1", "the category table is not yaml"),
        ("[1]", "the category table must have rows"),
        ("car: {anchor: bottom}", "category 'car' must have anchor, cover and weight"),
        ("car: {anchor: roof, cover: [0.1, 0.2], weight: 1}", "anchor is 'roof'; there are: side, bottom, stand"),
        ("car: {anchor: top, cover: [0.3, 0.2], weight: 1}", r"cover is \[0.3, 0.2\]; it must be two shares"),
        ("car: {anchor: top, cover: [0.1, 0.2], weight: -1}", "weight and min_alpha must be numbers, at least 0"),
        (
            "car: {anchor: top, cover: [0.1, 0.2], weight: 1, oia: {area: 2}}",
            "oia must have area, a share of the image",
        ),
    ],
)
def test_a_table_that_cannot_be(tmp_path, text, message):
    file = tmp_path / "t.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_categories(str(file))


def test_a_missing_table(tmp_path):
    with pytest.raises(ConfigError, match="no.yaml: the category table cannot be read"):
        read_categories(str(tmp_path / "no.yaml"))
