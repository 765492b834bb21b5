"""SynthOcc as a data set: names, twins, masks, annotations, one rendering for three builds."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import occplug
from occplug.datasets import synthocc_dataset
from occplug.datasets.synthocc_dataset import SynthOcc
from occplug.errors import ConfigError, DataError
from occplug.torchreid_host import ImageDataManager


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthocc")
    SynthOcc(str(root), size="tiny", verbose=False)
    return str(root)


@pytest.fixture(scope="module")
def data(root):
    return SynthOcc(root, size="tiny", verbose=False)


def test_counts_labels_and_cameras(data):
    assert [len(split) for split in (data.train, data.query, data.gallery, data.query_holistic)] == [128, 24, 96, 24]
    assert data.pids == list(range(1, 17)) and data.cameras == [1, 2, 3, 4]
    assert {pid for _, pid, *_ in data.train} == set(range(16))
    assert Path(data.dataset_dir).parts[-2:] == ("synthocc", "tiny")


def test_twins_stand_in_the_order_of_the_queries(data):
    for query, twin in zip(data.query, data.query_holistic):
        assert query[1:] == twin[1:]
        assert twin[0].replace("query_holistic", "query") != twin[0] and Path(twin[0]).exists()
        first, second = data.annotation(query[0]), data.annotation(twin[0])
        assert [first[key] for key in ("pid", "camid", "k")] == [second[key] for key in ("pid", "camid", "k")]
        assert first["occluder"] and second["occluder"] is None


def test_masks_belong_to_their_images(data):
    for path, *_ in data.query:
        with Image.open(path) as image, Image.open(data.part_mask_path(path)) as parts:
            assert image.size == parts.size
        assert Path(data.occluder_mask_path(path)).parent == Path(data.masks_dir) / "occluder" / "query"
    assert all(data.occluder_mask_path(path) is None for path, *_ in data.query_holistic)
    assert {Path(data.part_mask_path(path)).exists() for path, *_ in data.train + data.query_holistic} == {True}


def test_annotations_agree_with_items(data):
    assert len(data.annotations) == 272
    for path, label, camid, _ in data.train:
        record = data.annotation(path)
        assert (record["pid"], record["camid"]) == (data.pids[label], camid)
        assert (data.occluder_mask_path(path) is not None) == (record["occluder"] is not None)
    assert data.identities.keys() >= {pid for _, pid, *_ in data.gallery} and data.identities[1]["caption"]


def test_one_rendering_serves_all_builds(root, monkeypatch):
    benchmark = synthocc_dataset.build.__globals__
    monkeypatch.setitem(benchmark, "_write", lambda *_: pytest.fail("rendered again"))
    occplug.register()
    try:
        monkeypatch.setattr(SynthOcc.__init__, "__defaults__", ("", "tiny", 1))
        manager = ImageDataManager(root=root, sources="synthocc", height=32, width=16, workers=0, use_gpu=False)
    finally:
        occplug.unregister()
    assert manager.num_train_pids == 16 and len(manager.test_loader["synthocc"]["query"].dataset) == 24


def test_the_fingerprint_is_that_of_the_content_not_of_the_jpeg_bytes(root, data, tmp_path):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    image = tmp_path / "synthocc" / "tiny" / "query" / Path(data.query[0][0]).name
    image.write_bytes(image.read_bytes() + b" ")
    assert SynthOcc(str(tmp_path), size="tiny").fingerprint == data.fingerprint and len(data.fingerprint) == 64
    manifest = tmp_path / "synthocc" / "tiny" / "manifest.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**told, "content": "0" * 64}))
    assert SynthOcc(str(tmp_path), size="tiny").fingerprint != data.fingerprint


def test_unknown_and_impossible_options(root):
    with pytest.raises(ConfigError, match="^the data set synthocc has no option severiti$"):
        SynthOcc(root, size="tiny", severiti=1)
    with pytest.raises(DataError, match="unknown size 'huge'; sizes are tiny, small, tune, medium"):
        SynthOcc(root, size="huge")
    with pytest.raises(DataError, match=r"severity is 0\.6, not 0\.5"):
        SynthOcc(root, size="tiny", severity=0.5)
    knobs = {"severity": 0.6, "group_size": 2, "ratio": [0.2, 0.6], "heldout_occluders": []}
    assert SynthOcc(root, size="tiny", **knobs, mode="gallery", market1501_500k=False).mode == "gallery"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: lines[:-1] + [lines[-1][:40]], "images.jsonl, line 272, is damaged"),
        (lambda lines: [b"\xff" + lines[0], *lines[1:]], "images.jsonl, line 1, is damaged"),
        (lambda lines: [lines[0].replace(b'"file"', b'"fule"'), *lines[1:]], "images.jsonl, line 1, is damaged"),
        (lambda lines: [b"[" * 100_000, *lines], r"images.jsonl, line 1, is damaged \(it is nested too deeply\)"),
        (lambda lines: [b'"text"', *lines], "images.jsonl, line 1, is damaged"),
        (lambda lines: [line for line in lines if b'"query/' not in line], "images.jsonl says nothing of query/"),
        (lambda lines: [], "images.jsonl says nothing of query/"),
    ],
)
def test_damaged_annotations_are_named_before_a_training_not_at_the_end_of_its_test(root, tmp_path, change, told):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "synthocc" / "tiny" / "annotations" / "images.jsonl"
    file.write_bytes(b"\n".join(change(file.read_bytes().splitlines())))
    with pytest.raises(DataError, match=rf"{told}.*delete the folder and run `occplug synthocc --root"):
        SynthOcc(str(tmp_path), size="tiny", verbose=False)


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": {}}', '{"1": 5}'])
def test_damaged_identities_are_named(root, tmp_path, text):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (tmp_path / "synthocc" / "tiny" / "annotations" / "identities.json").write_text(text)
    with pytest.raises(DataError, match="identities.json is missing or damaged.*delete the folder"):
        _ = SynthOcc(str(tmp_path), size="tiny", verbose=False).identities
