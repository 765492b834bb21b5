"""What changes figures is refused, or said in the protocol line or in `metrics.json`."""

import logging
import re

import numpy as np
import pytest
import torch

from occplug.config import checks, default_config, load_config, resolved_yaml, shipped_configs
from occplug.config.changes import saved_values
from occplug.data.manager import DataManager, GeneratedDataManager
from occplug.datasets.listing import passed_over
from occplug.errors import ConfigError, DataError
from occplug.evaluation import rank_distances
from occplug.masks.files import read_mask_file
from occplug.runs.candidates import Candidate, combined, differences, engine_of
from occplug.runs.session import describe_protocol
from occplug.zoo.weights import TestWeights
from tests.datasets.trees import market_tree, put

SMALL = ["data.sources", ["market1501"], "data.targets", ["market1501"], "data.workers", 0, "train.batch_size", 4,
         "backbone.weights", "none", "sampler.num_instances", 2]  # fmt: skip


def config(root, *options):
    return default_config("clip_reid", "clip_vit_tiny", [*SMALL, "data.root", str(root), *options])


@pytest.fixture
def root(tmp_path):
    market_tree(tmp_path / "market1501", train=(7, 3, 5), cameras=(1, 2))
    return tmp_path


# ---- what the data are


def test_training_on_query_and_gallery_changes_the_protocol_line_and_the_fingerprint(root):
    plain, whole = (
        DataManager(config(root, "data.combineall", flag)).summary()["market1501"] for flag in (False, True)
    )
    assert whole["train"] > plain["train"] and whole["fingerprint"] != plain["fingerprint"]
    assert describe_protocol(config(root, "data.combineall", True)).endswith(
        "; query and gallery images trained on (data.combineall)"
    )
    assert "combineall" not in describe_protocol(config(root))


def test_a_test_of_weights_trained_on_the_test_images_says_so_too(root):
    trained = config(root, "data.combineall", True)
    weights = TestWeights({}, 3, 2, "a.pth", True, resolved_yaml(trained))
    assert combined(Candidate(config(root), "", weights))
    assert "combineall" in describe_protocol(config(root), combined=True)


def test_queries_without_a_match_are_counted_apart():
    figures = rank_distances(np.ones((3, 2)), [1, 1, 9], [1, 2], [0, 0, 0], [1, 1]).summary()
    assert (figures["num_query"], figures["num_query_valid"]) == (3, 2)


def test_files_that_are_left_out_are_listed_by_their_reason(root, caplog):
    folder = root / "market1501/bounding_box_test"
    put(folder, "-1_c1s1_000151_01.jpg", "-1_c2s1_000151_01.jpg")
    for name in ("Thumbs.db", "0001_c1s1_000151_01.jpg.bak", "notes"):
        (folder / name).write_text("x")
    (folder / "more").mkdir()
    caplog.set_level(logging.INFO, "occplug")
    summary = DataManager(config(root)).summary()["market1501"]
    expected = {"junk (person -1)": 2, "ending .db": 1, "ending .bak": 1, "ending none": 1, "folder inside": 1}
    assert summary["left_out"] == expected
    assert "market1501: files of its folders that are left out: 1 ending .bak, 1 ending .db" in caplog.text
    assert passed_over(str(root / "market1501/query")) == {}


def test_without_such_files_nothing_is_listed(root):
    assert "left_out" not in DataManager(config(root)).summary()["market1501"]


@pytest.mark.parametrize("side", ["bounding_box_train", "query", "bounding_box_test"])
def test_a_link_to_nothing_is_named(root, side):
    (root / "market1501" / side / "0009_c1s1_000151_01.jpg").symlink_to(root / "gone.jpg")
    with pytest.raises(DataError, match=f"{side}/0009_c1s1_000151_01.jpg is a link to a file that does not exist"):
        DataManager(config(root))


@pytest.mark.parametrize("key", ["data.sources", "data.targets"])
def test_a_data_set_named_twice_is_refused(key, tmp_path):
    with pytest.raises(
        ConfigError, match=f"{key} names market1501 twice; its identities would count twice: name it once"
    ):
        config(tmp_path, key, ["market1501", "synthocc", "market1501"])


@pytest.mark.parametrize("trains", [True, False])
def test_one_identity_alone_is_nothing_to_learn_from(tmp_path, trains):
    market_tree(tmp_path / "market1501", train=(7,))
    with pytest.raises(
        DataError, match="market1501: there is 1 identity to train on, and a classifier needs at least two"
    ):
        DataManager(config(tmp_path), trains=trains, sources=True)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("12345678901234567890_c1s1_000151_01.jpg", "names the person 12345678901234567890, and numbers below"),
        ("2147483648_c1s1_000151_01.jpg", "names the person 2147483648, and numbers below 2,147,483,648 are read"),
        ("0007_c123456789012345678901.jpg", "camera 123456789012345678901 of .*; cameras up to 10,000 are read"),
        ("0007_c2147483648s1.jpg", "camera 2147483648 of .*; cameras up to 10,000 are read"),
    ],
)
@pytest.mark.parametrize("side", ["bounding_box_train", "query"])
def test_numbers_too_large_to_count_with_are_named(root, side, name, message):
    put(root / "market1501" / side, name)
    with pytest.raises(DataError, match=message):
        DataManager(config(root))


# ---- what the weights were trained with


def weights_of(cfg, method):
    return TestWeights(method.state_dict(), 8, 4, "a.pth", True, resolved_yaml(cfg), tuple(range(8)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.norm_mean", [0.48, 0.46, 0.41]),
        ("data.norm_std", [0.2, 0.2, 0.2]),
        ("backbone.sie_coefficient", 3.0),
    ],
)
def test_constants_other_than_the_checkpoints_are_refused(tmp_path, key, value):
    from occplug import build_method

    cfg, other = config(tmp_path), config(tmp_path, key, value)
    candidate = Candidate(other, "", weights_of(cfg, build_method(cfg, 8, 4, pretrained=False)))
    data = GeneratedDataManager(other, trains=False)
    with pytest.raises(ConfigError, match=rf"{key} is .* and a.pth was trained with .*set {key} to"):
        engine_of(candidate, data, tmp_path, torch.device("cpu"))
    same = Candidate(cfg, "", candidate.weights)
    engine_of(same, GeneratedDataManager(cfg, trains=False), tmp_path, torch.device("cpu"))


def test_other_keys_of_a_test_are_said(tmp_path):
    cfg = config(tmp_path)
    other = config(tmp_path, "eval.flip", True, "input.test_interpolation", "bicubic", "method.neck", "after",
                   "train.seed", 5, "method.stage2.lr", 1.0, "data.targets", ["synthocc"])  # fmt: skip
    found = differences(Candidate(other, "", TestWeights({}, 1, 1, "a.pth", True, resolved_yaml(cfg))))
    assert found == {
        "eval.flip": [False, True],
        "input.test_interpolation": ["bilinear", "bicubic"],
        "method.neck": ["before", "after"],
    }
    assert differences(Candidate(other, "", TestWeights({}, 1, 1, "a.pth", True, None))) == {}


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just text", ""])
def test_a_config_in_a_checkpoint_that_is_none_is_named(text):
    with pytest.raises(ConfigError, match="the config that a checkpoint holds is"):
        saved_values(text)


# ---- accepted without a word


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ensemble: {held_out: -1}", r"ensemble.held_out is -1.0; it must be from 0 to 1"),
        ("train: {lr: {}}", r"train.lr is \{\} \(dict\), expected a finite number"),
        ("data: {root: {}}", r"data.root is \{\} \(dict\), expected text"),
        ("data: {sources: {}}", r"data.sources is \{\} \(dict\), expected a list"),
        ("use_gpu: {}", r"use_gpu is \{\} \(dict\), expected true or false"),
        ("train: {lr: 1.0e+38}", r"train.lr is 1e\+38; numbers of a config are at most 1e\+12"),
        ("data: {norm_mean: [1.0e+30, 0, 0]}", r"data.norm_mean is \[1e\+30, 0.0, 0.0\]; numbers of a config are at"),
        ("adam: {beta1: 1}", r"adam.beta1 is 1.0; it must be at least 0 and below 1"),
        ("adam: {beta2: 1}", r"adam.beta2 is 1.0; it must be at least 0 and below 1"),
        ("train: {batch_size: 1}", "train.batch_size is 1; it must be at least 2, since batch norm takes its"),
        ("train: {start_epoch: 3}", "train.start_epoch is 3, but resnet50 does not use it: --resume goes on"),
        ("video: {seq_len: 3}", "video.seq_len is 3, but resnet50 does not use it: video data sets are not"),
    ],
)
def test_values_that_mean_nothing_are_refused(tmp_path, text, message):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(file)


@pytest.mark.parametrize("text", ["train: {}", "method: {}", "augment: {}", "data:", "train: {lr: 0.1}\nsgd: {}"])
def test_an_empty_section_is_still_none(tmp_path, text):
    file, plain = tmp_path / "c.yaml", tmp_path / "plain.yaml"
    file.write_text(text)
    plain.write_text("train: {lr: 0.1}\n" if "lr" in text else "")
    assert resolved_yaml(load_config(file)) == resolved_yaml(load_config(plain))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sgd: {nesterov: True}", "sgd.nesterov is True, which does nothing while train.optim is 'adam'; it needs sgd"),
        ("adam: {beta1: 0.5}\ntrain: {optim: sgd}", "adam.beta1 is 0.5, which does nothing while train.optim is 'sgd'"),
        (
            "train: {gamma: 0.5, lr_scheduler: cosine}",
            "train.gamma is 0.5, which does nothing while",
        ),
        ("train: {new_layers: [a]}", "train.new_layers is ['a'], which does nothing while train.staged_lr is False"),
        ("loss: {triplet: {margin: 1}}", "loss.triplet.margin is 1.0, which does nothing while loss.name is 'softmax'"),
    ],
)
def test_stock_keys_that_another_key_switches_off_are_said(tmp_path, caplog, text, message):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    load_config(file)
    assert f"{file}: {message}" in caplog.text


CLIP = "model: {name: clip_reid}\nbackbone: {name: clip_vit_tiny, stride: 8, weights: embedded}\n"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("augment.rwoa.prob", 0.9, r"while data.transforms is \['random_flip'\]; it needs rwoa there"),
        (
            "augment.color_jitter.brightness",
            0.9,
            r"while data.transforms is \['random_flip'\]; it needs color_jitter there",
        ),
        ("backbone.semantic_weight", 0.9, "while backbone.name is 'clip_vit_tiny'; it needs a tower of SOLIDER"),
        ("backbone.sie_coefficient", 2.0, "while backbone.sie_camera is False; it needs True"),
        ("backbone.wgff.lr", 0.1, "while backbone.name is 'clip_vit_tiny'; it needs wgff"),
        ("prompts.temperature", 0.2, "with clip_vit_tiny, which has texts of its own"),
        ("masks.noise", "eroded", "for clip_reid with these settings, which reads no part masks"),
        ("masks.noise_strength", 0.2, "while masks.noise is 'none'; it needs eroded, shifted or swapped"),
        ("sampler.num_cams", 3, "while sampler.train_sampler is 'RandomSampler'; it needs RandomDomainSampler"),
        ("synthocc.severity", 0.1, "for the data sets market1501, market1501; it is of synthocc"),
        ("market1501.use_500k_distractors", True, None),
        ("cuhk03.classic_split", True, "for the data sets market1501, market1501; it is of cuhk03"),
        ("data.pattern", "x", "for the data sets market1501, market1501; it is of folder:DIR"),
        ("train.print_freq", 5, "in occplug: the bar shows each step, and the log each epoch"),
        ("test.ranks", [5], "in occplug: results list Rank-1, 5, 10 and 20"),
        ("augment.random_flip.prob", 0.9, None),
        ("method.stage1.epochs", 3, None),
    ],
)
def test_keys_that_were_set_to_no_effect_are_said(tmp_path, caplog, key, value, reason):
    checks.warn_once.cache_clear()
    file = tmp_path / "c.yaml"
    file.write_text(CLIP)
    cfg = load_config(file, [key, value])
    said = [text for text in caplog.messages if "does nothing" in text]
    assert len(said) == (0 if reason is None else 1 + (key == "masks.noise_strength"))
    assert reason is None or any(re.search(rf"command line: {key} is .*, which does nothing {reason}", x) for x in said)
    caplog.clear()
    load_config(text=resolved_yaml(cfg))  # what a file of weights holds is not news
    assert not caplog.messages


ON_VIT = "model: {name: NAME}\nbackbone: {name: vit_mini}\n"


@pytest.mark.parametrize(
    ("method", "more", "key", "value", "is_said"),
    [
        ("clip_reid", [], "prompts.temperature", 0.2, False),
        ("clip_reid", ["method.prompts", False], "prompts.temperature", 0.2, True),
        ("clip_reid", ["method.prompts", False], "prompts.source", "joint", True),
        ("dpmpp", [], "prompts.temperature", 0.2, False),
        ("dpmpp", ["method.prompts", False], "prompts.source", "joint", True),
        ("profd", [], "prompts.temperature", 0.2, True),
        ("profd", [], "prompts.source", "joint", True),
        ("profd", [], "prompts.weights", "none", False),
        ("profd", ["method.prompt", "learned"], "prompts.weights", "none", True),
        ("dpm", [], "prompts.temperature", 0.2, True),
        ("dpm", [], "prompts.source", "joint", True),
    ],
)
def test_keys_of_texts_that_a_method_does_not_read_are_said(tmp_path, caplog, method, more, key, value, is_said):
    checks.warn_once.cache_clear()
    sizes = ["data.height", 64, "data.width", 32, "backbone.stride", 8, "backbone.weights", "none"]
    texts = ["prompts.clip", "clip_vit_tiny", "prompts.weights", "embedded"]
    words = [*sizes, *texts, *(["method.train.text_encoder_lr_mult", 0.0] if method == "profd" else []), *more]
    file = tmp_path / "c.yaml"
    file.write_text(ON_VIT.replace("NAME", method))
    load_config(file, [*words, key, value])
    said = [text for text in caplog.messages if f"{key} is {value!r}, which does nothing" in text]
    assert len(said) == is_said
    assert all(f"for {method} with these settings, which does not read it" in text for text in said)


def test_no_config_of_ours_sets_a_key_to_no_effect(caplog):
    checks.warn_once.cache_clear()
    for file in sorted(shipped_configs().glob("*.yaml")):
        load_config(file)
    assert not [text for text in caplog.messages if "does nothing" in text]


@pytest.mark.parametrize("value", [1e38, -1e38, 11.0, -11.0])
def test_masks_that_hold_no_confidences_are_named(tmp_path, value):
    maps = np.zeros((36, 4, 2), np.float32)
    maps[3, 1, 1] = value
    np.save(tmp_path / "m.npy", maps)
    with pytest.raises(DataError, match=r"m.npy: the mask holds values from .* and confidences lie in \[0, 1\]"):
        read_mask_file(tmp_path / "m.npy")
