"""Names that are not text, which most systems allow: images may have them, and what libraries write may not."""

import csv
import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from occplug import Embedding
from occplug.cli import cluster, main
from occplug.cli.arguments import config_parser, parse_config
from occplug.config import load_config
from occplug.datasets.by_path import dataset_class
from occplug.engine import save_checkpoint
from occplug.engine.loggers import stage_writer
from occplug.errors import CheckpointError, DataError, OutputError
from occplug.serving.metadata import read_metadata
from occplug.utils.files import is_text
from occplug.zoo.weights import read_test_weights, save_small

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
NAME = os.fsdecode(b"caf\xe9")


def write_images(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((8, 4, 3), np.uint8)).save(folder / name)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: save_checkpoint({"state_dict": {}}, folder / "a.pth"),
        lambda folder: Embedding(torch.ones(2, 3)).save(folder / "a.safetensors"),
        lambda folder: save_small(folder / "a.safetensors", {"a": torch.ones(2)}, 1, 1, config="a: 1\n"),
    ],
)
def test_what_libraries_write_needs_a_name_of_text(write, tmp_path):
    with pytest.raises(OutputError, match=r"caf\\xe9.*: the name is not text in UTF-8; choose another"):
        write(tmp_path / NAME)
    assert not any((tmp_path / NAME).rglob("a.*"))
    write(tmp_path / "café 名")
    assert is_text("café 名") and not is_text(NAME)


def test_a_run_is_refused_before_anything_is_written(tmp_path, capsys):
    words = ["--config-file", "clip_reid_synthocc", "-s", "folder:nowhere", "-t", "folder:nowhere"]
    assert main(["train", *words, "data.save_dir", str(tmp_path / NAME)]) == 2
    assert r"caf\xe9/checkpoints/last.pth: the name is not text in UTF-8" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_weight_file_of_such_a_name_is_not_called_damaged_alone(tmp_path):
    (tmp_path / NAME).mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    os.rename(tmp_path / "a.safetensors", tmp_path / NAME / "a.safetensors")
    with pytest.raises(CheckpointError, match="is not valid UTF-8"):
        read_test_weights(str(tmp_path / NAME / "a.safetensors"))


def test_lists_of_images_have_them_as_they_are(tmp_path):
    write_images(tmp_path / NAME, f"{NAME}.png", "b.png")
    image = os.path.join(tmp_path, NAME, f"{NAME}.png")
    cluster._write(tmp_path / "groups.csv", [(0, image)])
    assert os.fsencode(image) in (tmp_path / "groups.csv").read_bytes()
    assert read_metadata(tmp_path / "groups.csv", [image]) == {"group": [0]}

    lines = b"path,pid,camid,split\n" + b"".join(
        b"caf\xe9/%s.png,%d,1,train\n" % x for x in ((b"caf\xe9", 1), (b"b", 2))
    )
    (tmp_path / "split.csv").write_bytes(lines)
    data = dataset_class(f"csv:{tmp_path / 'split.csv'}")(mode="train")
    assert sorted(path for path, *_ in data.train) == sorted([image, os.path.join(tmp_path, NAME, "b.png")])
    (tmp_path / "split.csv").write_bytes(lines.replace(b"b.png", b"c.png"))
    with pytest.raises(DataError, match=r"c.png \(line 3\) do not exist; .*; it is no CSV in UTF-8"):
        dataset_class(f"csv:{tmp_path / 'split.csv'}")(mode="train")


@pytest.mark.parametrize("name", [NAME, "it's", 'a "b"', "back\\slash", "# no comment", "a: b", "[x]"])
def test_names_of_data_sets_reach_the_config_as_they_are(name):
    words = ["--config-file", "clip_reid_synthocc", "-s", f"folder:{name}", "-t", f"folder:{name}"]
    _, cfg = parse_config(config_parser("train", ""), words)
    assert cfg.data.sources == cfg.data.targets == [f"folder:{name}"]


def test_tensorboard_gets_a_tag_of_text(tmp_path):
    writer = stage_writer(tmp_path, "stage2", load_config("clip_reid_synthocc", ["run.logger", "tensorboard"]))
    writer.add_scalar(f"Test/folder:{NAME}/mAP", 0.5, 0)
    writer.close()
    (file,) = (tmp_path / "tensorboard/stage2").iterdir()
    assert rb"Test/folder:caf\udce9/mAP" in file.read_bytes()


def test_of_a_key_given_twice_the_last_one_counts_wherever_flags_stand():
    words = ["--config-file", "clip_reid_synthocc"]
    for pairs in (
        ["train.seed", "3", "-s", "synthocc", "train.seed", "4"],
        ["-s", "synthocc", "train.seed", "3", "--root", "x", "train.seed", "4"],
        ["-s", "a", "train.seed=3", "-t", "b", "train.seed=4", "--transforms", "random_flip", "use_gpu", "False"],
    ):
        assert parse_config(config_parser("train", ""), [*words, *pairs])[1].train.seed == 4


@pytest.mark.parametrize("part", ["origin", "header"])
def test_a_header_that_is_nested_too_deeply_is_a_message(part, tmp_path):
    file = tmp_path / "a.safetensors"
    texts = {"format": "occplug-embedding-1", "origin": json.dumps({}), "header": "{}"}
    save_file({"vector": torch.ones(2, 3)}, file, {**texts, part: "[" * 200_000})
    with pytest.raises(DataError, match="nested too deeply"):
        Embedding.load(file)


def test_groups_are_a_plain_table(tmp_path):
    cluster._write(tmp_path / "a.csv", [(1, "x.jpg"), (-1, "y, z.jpg")])
    with (tmp_path / "a.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [["path", "group"], ["x.jpg", "1"], ["y, z.jpg", "-1"]]
