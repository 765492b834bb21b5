"""YAML and JSON within limits: anchors, nesting, sizes; configs that are cut off or read their bases too often."""

import json
import random
import re
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import occplug
from occplug.config import default_config, load_config, save_config
from occplug.errors import ConfigError, DataError
from occplug.evaluation import read_per_query
from occplug.experiments.keptfile import read_runs
from occplug.experiments.markdown import check_marks
from occplug.masks.files import check_mask_file, read_mask_file
from occplug.occluders.annotations import AnnotatedObjects
from occplug.occluders.categories import read_categories
from occplug.occluders.library import read_library
from occplug.occluders.pictures import CutoutPictures
from occplug.reports.robustness import draw_robustness
from occplug.reports.views import view_of_folder
from occplug.utils import texts
from occplug.utils.texts import parse_yaml_text, read_json
from occplug.zoo import read_index
from occplug.zoo.exporting import read_metrics
from tests.utils.test_imagefile import chunk


def laughs(levels=30, first="[lol]"):
    """A few hundred bytes that stand for 2 ** levels values."""
    lines = [f"a0: &a0 {first}"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


MAPS = "a0: &a0 x\n" + "".join(f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}\n" for n in range(1, 30))
MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 30))
BOMBS = {
    "lists": (laughs(), "aliases repeat its values to more than 500,000, the limit; write them out"),
    "maps": (MAPS, "aliases repeat its values"),
    "merges": (MERGES, "aliases repeat its values"),
    "itself": ("a: &a [*a]\n", "an alias makes it hold itself"),
    "both": ("a: &a {b: &b [*a, *b]}\n", "an alias makes it hold itself"),
    "depth": ("a: " + "[" * 20_000, "nest"),
    "blocks": ("- " * 20_000 + "a", "nest"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_at_once_everywhere(tmp_path, name):
    text, told = BOMBS[name]
    file, start = tmp_path / "a.yaml", time.process_time()
    file.write_text(text)
    for read in (load_config, read_index, lambda path: read_categories(str(path))):
        with pytest.raises(ConfigError, match=told) as caught:
            read(file)
        assert str(file) in str(caught.value)
    with pytest.raises(ConfigError):
        default_config(opts=["data.sources", text])
    assert time.process_time() - start < 20


def test_ordinary_anchors_are_read():
    assert parse_yaml_text("a: &x [1, 2]\nb: *x\nc: {<<: {d: 1}}\n") == {"a": [1, 2], "b": [1, 2], "c": {"d": 1}}
    assert parse_yaml_text("") is None
    with pytest.raises(yaml.YAMLError, match="the key 'a' is given twice"):
        parse_yaml_text("a: 1\na: 2\n")


def test_a_text_that_is_too_long_is_refused_with_the_number(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "MAX_YAML", 1000)
    with pytest.raises(yaml.YAMLError, match="it has 2,000 characters, more than the limit of 1,000"):
        parse_yaml_text("#" * 2000)
    (tmp_path / "a.json").write_text("[" + "1," * 600 + "1]")
    with pytest.raises(ValueError, match=r"it has 1,203 bytes, more than the limit of 1,000"):
        read_json(tmp_path / "a.json", 1000)


def test_bases_that_double_are_refused(tmp_path):
    for number in range(25):
        (tmp_path / f"{number}.yaml").write_text(f"_base_: [{number + 1}.yaml, {number + 1}.yaml]\n")
    (tmp_path / "25.yaml").write_text("train: {seed: 3}\n")
    with pytest.raises(ConfigError, match="0.yaml: with its _base_ files it reads more than 64 files, the"):
        load_config(tmp_path / "0.yaml")
    assert load_config(tmp_path / "22.yaml").train.seed == 3


def test_a_saved_config_that_is_cut_off_is_refused_wherever_that_is(tmp_path):
    cfg = default_config(opts=["train.seed", 7])
    save_config(cfg, tmp_path / "whole.yaml")
    lines = (tmp_path / "whole.yaml").read_text().splitlines(keepends=True)
    assert load_config(tmp_path / "whole.yaml") == cfg
    for count in range(1, len(lines), 9):
        (tmp_path / "cut.yaml").write_text("".join(lines[:count]))
        with pytest.raises(ConfigError, match="it is cut off, its last line is not '...'|not valid yaml"):
            load_config(tmp_path / "cut.yaml")


# ---------------------------------------------------------------------- json


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "\xff", "", "{", "NaN]", '{"cutouts": 3}'])
def test_damaged_json_is_a_message_naming_the_file(tmp_path, text):
    for name in ("index.json", "a.json"):
        (tmp_path / name).write_bytes(text.encode("latin1"))
    with pytest.raises(DataError, match="index.json: not an occluder index"):
        read_library(tmp_path)
    with pytest.raises(DataError, match="a.json: "):
        AnnotatedObjects(tmp_path / "a.json", tmp_path)
    with pytest.raises(DataError, match="a.json: not what occplug robustness writes"):
        draw_robustness(tmp_path / "a.json", tmp_path / "a.pdf")
    (tmp_path / "a.json").rename(tmp_path / "metrics.json")
    for read in (view_of_folder, read_metrics):
        with pytest.raises(DataError, match=r"metrics.json"):
            read(tmp_path)


ROBUSTNESS = {"shares": [0, 0.5], "models": [{"title": "a", "seeds": 1}]}


@pytest.mark.parametrize("change", [{"models": 5}, {"shares": "x"}, {"models": [{"title": "a"}]}, {"models": [5]}])
def test_damaged_curves_of_robustness_are_a_message(tmp_path, change):
    (tmp_path / "r.json").write_text(json.dumps(ROBUSTNESS | change))
    with pytest.raises(DataError, match="r.json: not what occplug robustness writes"):
        draw_robustness(tmp_path / "r.json", tmp_path / "r.pdf")
    assert not (tmp_path / "r.pdf").exists()


def test_files_that_are_no_text_are_a_message(tmp_path):
    (tmp_path / "config.yaml").write_bytes(b"data: {root: \xff}")
    (tmp_path / "metrics.json").write_text('{"method": "m", "targets": {}}')
    assert view_of_folder(tmp_path).root == ""  # which only says where thumbnails may be
    (tmp_path / "runs.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(DataError, match="runs.jsonl, line 1 is damaged"):
        read_runs(tmp_path / "runs.jsonl")
    (tmp_path / "page.md").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="page.md is no page in UTF-8"):
        check_marks(tmp_path / "page.md", "table")


# files that only occplug's own code wrote, whose text was read within limits before, or whose errors are all caught
OWN_JSON = {"texts.py", "tiny.py", "files.py", "exported.py", "keptfile.py", "processes.py"}


def test_json_of_users_goes_through_the_one_reader():
    """`json.loads` has no limits, and raises RecursionError for brackets alone."""
    for file in Path(occplug.__file__).parent.rglob("*.py"):
        if file.name not in OWN_JSON:
            assert not re.search(r"json\.loads?\b", file.read_text()), file


def coco(folder, image=None, polygon=(10, 10, 200, 10, 200, 200, 10, 200)):
    content = {"id": 1, "file_name": "a.png", "width": 300, "height": 300, **(image or {})}
    row = {"id": 5, "image_id": 1, "category_id": 3, "segmentation": [list(polygon)], "area": 1.0, "bbox": [0, 0, 9, 9]}
    tree = {"images": [content], "annotations": [row], "categories": [{"id": 3, "name": "car"}]}
    (folder / "a.json").write_text(json.dumps(tree))
    return folder / "a.json"


@pytest.mark.parametrize(
    "image, told",
    [
        ({"file_name": None}, "image 1: file_name is None, expected the name of a file"),
        ({"file_name": 3}, "image 1: file_name is 3, expected the name of a file"),
        ({"width": 10**6, "height": 10**6}, "image 1: it is 1000000 x 1000000 pixels, expected .* at most 67,108,864"),
        ({"width": -3}, "image 1: it is -3 x 300 pixels"),
        ({"height": "300"}, "image 1: it is 300 x '300' pixels"),
        ({"id": [1]}, "is not COCO's form"),
    ],
)
def test_impossible_images_of_an_annotation_file_are_named(tmp_path, image, told):
    with pytest.raises(DataError, match=f"a.json: .*{told}"):
        AnnotatedObjects(coco(tmp_path, image), tmp_path)


@pytest.mark.parametrize("corner", [float("nan"), float("inf"), 1e300, None, "x"])
def test_impossible_corners_are_named(tmp_path, corner):
    Image.new("RGB", (300, 300)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="a.json: "):
        list(AnnotatedObjects(coco(tmp_path, polygon=(10, 10, 200, 10, corner, 200)), tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_a_cut_out_of_900_megapixels_is_refused(tmp_path):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 6, 0, 0, 0))
    (tmp_path / "car_1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")))
    with pytest.raises(DataError, match="car_1.png: the picture is too large, the limit is 67,108,864 pixels"):
        list(CutoutPictures(tmp_path))


# ---------------------------------------------------------------------- numpy's files


def test_whatever_the_damage_to_a_mask_or_its_header_it_is_a_data_error(tmp_path):
    path, draw = tmp_path / "m.npy", random.Random(0)
    np.save(path, np.zeros((36, 6, 3), np.float32))
    content, refused = path.read_bytes(), 0
    for number in range(300):
        data = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            data[draw.randrange(128)] = draw.randrange(256)
        path.write_bytes(data[: draw.randrange(len(data))] if number % 5 == 0 else data)
        try:
            read_mask_file(path)
        except DataError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("shape", ["(36, 2**40, 2**40)", f"(36, {2**40}, {2**40})", f"(36, {2**33}, 4)", "(36, -1, 3)"])
def test_a_header_that_claims_more_than_the_file_has_is_refused(tmp_path, shape):
    path = tmp_path / "m.npy"
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head + bytes(100))
    with pytest.raises(DataError, match=f"{path}: "):
        check_mask_file(path)


def test_damaged_figures_per_query_are_a_message(tmp_path):
    path, draw, refused = tmp_path / "q.npz", random.Random(0), 0
    fields = {"image": np.array(["a.jpg"]), "pid": [1], "camid": [0], "ap": [0.5], "first_hit": [1]}
    np.savez_compressed(path, **fields)
    content = path.read_bytes()
    for number in range(150):
        data = bytearray(content)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data[: draw.randrange(len(data))] if number % 5 == 0 else data)
        try:
            found = read_per_query(path)
        except DataError as error:
            assert str(error).startswith(f"{path}: ")
            refused += 1
        else:
            assert found.ap.tolist() == [0.5] and found.first_hit.tolist() == [1]
    assert refused > 100
