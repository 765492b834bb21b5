"""Merging, types and errors of configs. Methods and transforms are stand-ins."""
# ruff: noqa: E501 (one mistake and its whole message on a line)

import logging
import re

import pytest
import yaml

from occplug.config import default_config, load, load_config, resolved_yaml, save_config
from occplug.config.changes import changed_keys, saved_values
from occplug.config.defaults import TORCHREID
from occplug.config.files import _note_renamed, flatten
from occplug.config.ranges import ABOVE_0, SHARE, Range, under
from occplug.errors import ConfigError, OutputError
from occplug.method import Method
from occplug.methods import _stock  # noqa: F401 - else it is first imported while the stand-ins are in place
from occplug.registry import BACKBONES, METHODS, SAMPLERS, TRANSFORMS
from occplug.utils import files


class Prompted(Method):
    defaults = {
        "prompts": True,
        "neck": "before",
        "stage1": {"epochs": 120, "lr": 3.5e-4, "weights": {"loss_i2t": 1.0}},
        "stage2": {"epochs": 60, "optimizer": "adam", "steps": [30, 50], "margin": 0.3, "warmup_factor": 0.1},
    }
    nullable = ("stage2.margin",)
    choices = {"neck": ("before", "after")}
    ranges = {
        "stage1.epochs": (0, None),
        "stage1.lr": ABOVE_0,
        "stage1.weights": (0, None),
        "stage2.steps": (0, None),
        "stage2.margin": (0, 2),
    }
    backbones = {"vit_b16": "clip_vit_b16", "vit_tiny": "clip_vit_tiny"}

    @staticmethod
    def check(cfg):
        """The declarations say everything."""


class Wrapped(Method):
    defaults = {"arch": "resnet50", "train": {"epochs": 10}, "alpha": 0.5, "gamma": 0.5, "loss_factor": 1.0}
    backbones: dict = {}

    @staticmethod
    def check(cfg):
        """Anything goes."""


class PadCrop:
    defaults = {"padding": 10}


class Erase:
    defaults = {"prob": 0.5, "scale": [0.02, 0.33], "bank": None}
    ranges = {"prob": SHARE}


class Flip:
    """A transform without keys."""


STAND_INS = {
    METHODS: {"clip_reid": Prompted, "wrapped": Wrapped},
    TRANSFORMS: {"pad_crop": PadCrop, "random_erase_pixel": Erase, "random_flip": Flip},
    SAMPLERS: {"identity": object},
    BACKBONES: dict.fromkeys(["clip_vit_b16", "clip_rn50", "clip_vit_tiny", "lsnet_t", "wgff"], object),
}


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch):
    for registry, entries in STAND_INS.items():
        monkeypatch.setattr(registry, "_module_dict", dict(entries))
        monkeypatch.setattr(registry, "import_from_location", lambda: None)
    monkeypatch.setattr(load, "_stock_model_names", lambda: ["resnet50", "osnet_x0_25", "osnet_x1_0"])


@pytest.fixture
def write(tmp_path):
    """A function that writes a yaml file and returns its path."""

    def write_file(text: str, name: str = "c.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write_file


CLIP = "model: {name: clip_reid}\n"
WGFF = "data: {norm_mean: [0.5, 0.5, 0.5], norm_std: [0.5, 0.5, 0.5]}\nbackbone: {name: wgff, "

# ---------------------------------------------------------------------- what loads


def test_all_68_keys_of_torchreid_are_there():
    keys = dict(flatten(TORCHREID))
    assert len(keys) == 68 + 1  # and use_gpu, which torchreid's script adds
    assert keys["loss.triplet.weight_x"] == 0.0 and keys["train.stepsize"] == [20] and keys["test.eval_freq"] == -1


UPSTREAM = """
model:
  name: 'osnet_x1_0'
  pretrained: True
data:
  type: 'image'
  sources: ['market1501']
  targets: ['market1501', 'dukemtmcreid']
  height: 256
  width: 128
  combineall: False
  transforms: ['random_flip', 'color_jitter']
  save_dir: 'log/osnet_x1_0_market1501_softmax_cosinelr'
loss:
  name: 'softmax'
  softmax:
    label_smooth: True
train:
  optim: 'amsgrad'
  lr: 0.0015
  max_epoch: 250
  batch_size: 64
  fixbase_epoch: 10
  open_layers: ['classifier']
  staged_lr: True
  new_layers: ['parts_avgpool']
  base_lr_mult: 0.0
  lr_scheduler: 'cosine'
test:
  batch_size: 300
  dist_metric: 'cosine'
  normalize_feature: False
  evaluate: False
  eval_freq: -1
  rerank: False
  visactmap: False
"""


def test_a_file_written_for_torchreid_loads_unchanged(write, caplog):
    cfg = load_config(write(UPSTREAM))
    assert (
        cfg.train.optim == "amsgrad" and cfg.train.lr == 0.0015 and cfg.data.targets == ["market1501", "dukemtmcreid"]
    )
    assert dict(cfg.method) == {}
    assert "visactmap" not in cfg.test and "test.visactmap is obsolete and has no effect" in caplog.text
    given = dict(flatten(yaml.safe_load(UPSTREAM)))
    resolved = dict(flatten(cfg))
    assert all(resolved[key] == value for key, value in given.items() if key != "test.visactmap")


def test_an_empty_file_gives_torchreids_defaults(write):
    cfg = load_config(write(""))
    assert cfg.model.name == "resnet50"
    assert {k: v for k, v in flatten(cfg) if k in dict(flatten(TORCHREID))} == dict(flatten(TORCHREID))


def test_method_and_augment_nodes_come_from_the_registries(write):
    cfg = load_config(write(CLIP))
    assert cfg.method == Prompted.defaults
    assert cfg.augment == {"pad_crop": {"padding": 10}, "random_erase_pixel": Erase.defaults}
    assert cfg.method is not Prompted.defaults and cfg.is_frozen() and cfg.method.stage2.is_frozen()


def test_bases_are_relative_to_the_file_and_later_ones_win(write):
    write("train: {seed: 1, batch_size: 8}\ndata: {width: 64}", "_base_/a.yaml")
    write("_base_: a.yaml\ntrain: {seed: 2}", "_base_/b.yaml")
    write("train: {batch_size: 16}", "c.yaml")
    cfg = load_config(write("_base_: [_base_/b.yaml, c.yaml]\ndata: {height: 99}", "d.yaml"))
    assert (cfg.train.seed, cfg.train.batch_size, cfg.data.width, cfg.data.height) == (2, 16, 64, 99)


def test_options_go_over_the_file_in_either_form(write):
    options = [
        "train.seed",
        "3",
        "train.lr=1e-4",
        "data.sources",
        '["a", "b"]',
        "data.save_dir",
        "123",
        "data.split_id",
        2,
    ]
    cfg = load_config(write("train: {seed: 1}"), options)
    assert (cfg.train.seed, cfg.train.lr, cfg.data.sources) == (3, 1e-4, ["a", "b"])
    assert (cfg.data.save_dir, cfg.data.split_id) == ("123", 2)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train.lr", "1", 1.0),
        ("train.lr", "1e-4", 1e-4),
        ("test.ranks", "(1, 5)", [1, 5]),
        ("data.norm_mean", "[0, 1e-1, 1]", [0.0, 0.1, 1.0]),
        ("data.transforms", "[]", []),
        ("data.transforms", "[random_flip, pad_crop]", ["random_flip", "pad_crop"]),
        ("test.rerank", "True", True),
        ("test.rerank", "true", True),
        ("data.root", "None", "None"),
        ("data.save_dir", "a=b", "a=b"),
        ("augment.random_erase_pixel.bank", "files", "files"),
        ("synthocc.heldout_occluders", "[umbrella, fence]", ["umbrella", "fence"]),
    ],
)
def test_text_is_read_in_the_type_of_the_default(write, key, text, value):
    got = dict(flatten(load_config(write(""), [key, text])))[key]
    assert got == value and type(got) is type(value)
    if isinstance(value, list) and value:
        assert [type(element) for element in got] == [type(element) for element in value]


def test_numbers_in_a_file_become_the_type_of_the_default(write):
    cfg = load_config(write("train: {lr: 1e-4}\ntest.ranks: [1]\nsgd: {momentum: 1}"))
    assert cfg.train.lr == 1e-4 and cfg.test.ranks == [1] and type(cfg.sgd.momentum) is float


@pytest.mark.parametrize("text", ["null", "None"])
def test_null_only_where_the_method_says_so(write, text):
    assert load_config(write(CLIP), ["method.stage2.margin", text]).method.stage2.margin is None
    assert load_config(write(CLIP + "method: {stage2: {margin: null}}")).method.stage2.margin is None


def test_a_null_overridden_later_is_still_checked_against_the_default(write):
    file = write(CLIP + "method: {stage2: {margin: null}}")
    assert load_config(file, ["method.stage2.margin", "1"]).method.stage2.margin == 1.0


def test_another_model_on_the_command_line_leaves_the_files_own_keys_out(write, caplog):
    file = write(CLIP + "method: {stage1: {epochs: 5}}\nbackbone: {stride: 12}\ntrain: {batch_size: 8}")
    cfg = load_config(file, ["model.name", "osnet_x0_25", "train.max_epoch", "3"])
    assert (
        dict(cfg.method) == {} and cfg.backbone.stride == 16 and cfg.train.batch_size == 8 and cfg.train.max_epoch == 3
    )
    left_out = "method.stage1.epochs, backbone.stride"
    assert caplog.messages == [
        f"model.name is changed to osnet_x0_25, so these keys of {file} keep their defaults: {left_out}"
    ]
    stock = write("model: {name: osnet_x0_25}\ntrain: {max_epoch: 3, batch_size: 8}", "stock.yaml")
    cfg = load_config(stock, ["model.name=clip_reid", "method.stage1.epochs=7"])
    assert (cfg.train.max_epoch, cfg.train.batch_size, cfg.method.stage1.epochs) == (60, 8, 7)


def test_nothing_is_logged_without_a_reason(write, caplog):
    caplog.set_level(logging.DEBUG)
    load_config(write(CLIP), ["model.name", "clip_reid"])
    assert not caplog.messages


def test_default_config_knows_what_a_backbone_was_made_for():
    tiny = default_config("clip_reid", "clip_vit_tiny")
    assert (tiny.data.height, tiny.data.width, tiny.backbone.stride, tiny.backbone.weights) == (128, 64, 8, "embedded")
    assert default_config().data.norm_mean == [0.5, 0.5, 0.5] == default_config("clip_reid").data.norm_std
    assert default_config("clip_reid", "clip_rn50").data.norm_mean == [0.485, 0.456, 0.406]
    hybrid = default_config("clip_reid", "wgff", ["backbone.wgff.points", "[[0, fused], [11, 2]]"])
    assert hybrid.data.norm_mean == [0.5] * 3 and hybrid.backbone.wgff.points == [[0, "fused"], [11, 2]]
    assert default_config("resnet50", opts=["train.seed", 9]).train.seed == 9


# ---------------------------------------------------------------------- writing


@pytest.mark.parametrize(
    "options", [[], ["method.stage2.margin", None], ["method.stage1.lr", 1e-300], ["data.root", "ä: #b"]]
)
def test_the_resolved_config_loads_to_an_equal_one(write, tmp_path, options):
    cfg = load_config(write(CLIP), options)
    save_config(cfg, tmp_path / "run" / "config.yaml")
    again = load_config(tmp_path / "run" / "config.yaml")
    assert again == cfg and resolved_yaml(again) == resolved_yaml(cfg)
    kinds = {key: type(value) for key, value in flatten(cfg)}
    assert kinds == {key: type(value) for key, value in flatten(again)}


def test_the_resolved_config_of_a_torchreid_model_loads_too(write, tmp_path):
    cfg = load_config(write(UPSTREAM))
    save_config(cfg, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == cfg


def test_saving_leaves_the_old_file_when_it_fails(write, tmp_path, monkeypatch):
    target = tmp_path / "run" / "config.yaml"
    cfg = load_config(write(CLIP))
    save_config(cfg, target)
    before = target.read_text()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OutputError) as error:
        save_config(load_config(write(CLIP), ["train.seed", 5]), target)
    assert (
        str(error.value) == f"{target} could not be written: no space left on the disk; the previous file is untouched"
    )
    assert target.read_text() == before and [f.name for f in target.parent.iterdir()] == ["config.yaml"]


# ---------------------------------------------------------------------- what does not load


def complaint(file, options=()) -> str:
    """The message of the ConfigError that `load_config` raises, with the file's path as F."""
    with pytest.raises(ConfigError) as error:
        load_config(file, list(options))
    return str(error.value).replace(str(file), "F")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {max_epochs: 3}", "F: there is no key 'train.max_epochs'; the nearest is 'train.max_epoch'"),
        ("trian: {lr: 1}", "F: there is no key 'trian.lr'; the nearest is 'train.lr'"),
        (CLIP + "method: {stage1: {epoch: 3}}", "F: there is no key 'method.stage1.epoch'; the nearest is 'method.stage1.epochs'"),
        (CLIP + "augment: {padcrop: {padding: 3}}", "F: there is no key 'augment.padcrop.padding'; the nearest is 'augment.pad_crop.padding'"),
        ("method: {prompts: False}", "F: there is no key 'method.prompts': a torchreid model has no method keys"),
        ("train: {lr: {max: 3}}", "F: there is no key 'train.lr.max'; the nearest is 'train.lr'"),
        ("model: {name: clip_ried}", "F: model.name is 'clip_ried', neither a method nor a torchreid model; the nearest is 'clip_reid', the methods are clip_reid, wrapped"),
        ("model: {name: osnet_x10}", "F: model.name is 'osnet_x10', neither a method nor a torchreid model; the nearest is 'osnet_x1_0', the methods are clip_reid, wrapped"),
        ("model: {name: 3}", "F: model.name is 3 (int), expected text"),
        ("train: {lr: fast}", "F: train.lr is 'fast' (str), expected a finite number"),
        ("train: {lr: .nan}", "F: train.lr is nan (float), expected a finite number"),
        ("train: {lr: true}", "F: train.lr is True (bool), expected a finite number"),
        ("train: {lr: null}", "F: train.lr is null, expected a finite number"),
        ("train: {seed: 1.0}", "F: train.seed is 1.0 (float), expected a whole number"),
        ("train: {seed: true}", "F: train.seed is True (bool), expected a whole number"),
        ("test: {rerank: 1}", "F: test.rerank is 1 (int), expected true or false"),
        ("data: {root: 3}", "F: data.root is 3 (int), expected text"),
        ("data: {sources: market1501}", "F: data.sources is 'market1501' (str), expected a list such as [a, b]"),
        ("test: {ranks: [1, b]}", "F: test.ranks is [1, 'b'] (list), expected a whole number"),
        ("train: 3", "F: train is a section; set one of its keys: optim, lr, weight_decay, max_epoch, start_epoch, batch_size, fixbase_epoch, open_layers, staged_lr, new_layers, base_lr_mult, lr_scheduler, stepsize, gamma, print_freq, seed, micro_batch"),
        ("amp: {dtype: fp8}", "F: amp.dtype is 'fp8'; there are: fp32, fp16, bf16"),
        (CLIP + "backbone: {name: clip_vit_l14}", "F: backbone.name is 'clip_vit_l14'; there are: clip_rn50, clip_vit_b16, clip_vit_tiny, lsnet_t, wgff"),
        ("input: {train_interpolation: lanczos}", "F: input.train_interpolation is 'lanczos'; there are: nearest, bilinear, bicubic"),
        ("data: {transforms: [random_flip, rand_erase]}", "F: data.transforms names 'rand_erase'; there are: color_jitter, pad_crop, random_crop, random_erase, random_erase_pixel, random_flip, random_patch"),
        ("sampler: {train_sampler: pk}", "F: sampler.train_sampler is 'pk'; there are: identity, RandomSampler, SequentialSampler, RandomIdentitySampler, RandomDomainSampler, RandomDatasetSampler"),
        (CLIP + "method: {neck: none}", "F: method.neck is 'none'; there are: before, after"),
        (CLIP + "method: {stage1: {epochs: -1}}", "F: method.stage1.epochs is -1; it must be at least 0"),
        (CLIP + "method: {stage1: {lr: 0}}", "F: method.stage1.lr is 0.0; it must be above 0"),
        (CLIP + "method: {stage1: {weights: {loss_i2t: -1}}}", "F: method.stage1.weights.loss_i2t is -1.0; it must be at least 0"),
        (CLIP + "method: {stage2: {margin: 2.5}}", "F: method.stage2.margin is 2.5; it must be from 0 to 2"),
        (CLIP + "method: {stage2: {steps: [30, -50]}}", "F: method.stage2.steps is [30, -50]; it must be at least 0"),
        ("augment: {random_erase_pixel: {prob: 1.5}}", "F: augment.random_erase_pixel.prob is 1.5; it must be from 0 to 1"),
        ("data: {height: 0}", "F: data.height is 0; it must be from 1 to 1024"),
        ("data: {width: 1000000}", "F: data.width is 1000000; it must be from 1 to 1024"),
        ("data: {cache: ''}", "F: data.cache is empty; it must be none, memory or the name of a folder"),
        (CLIP + "backbone: {stride: 1}", "F: backbone.stride is 1, which cuts 256 x 128 pixels into 27,233 patches, more than the limit of 8,192, each of which attends to all"),
        ("data: {split_id: -3}", "F: data.split_id is -3; it must be at least 0"),
        ("data: {workers: 100000}", "F: data.workers is 100000; it must be from 0 to 1024"),
        ("run: {threads: 100000}", "F: run.threads is 100000; it must be from 0 to 1024"),
        ("test: {ranks: [1, 60]}", "F: test.ranks is [1, 60]; it must be from 1 to 50"),
        ("data: {norm_std: [1, 0, 1]}", "F: data.norm_std is [1.0, 0.0, 1.0]; it must be above 0"),
        ("data: {norm_std: [1, 1]}", "F: data.norm_std has 2 values; it must have 3, for red, green and blue"),
        ("data: {targets: []}", "F: data.targets is empty; name at least one data set"),
        ("synthocc: {ratio: [0.6, 0.2]}", "F: synthocc.ratio is [0.6, 0.2]; it must be two shares, the smaller one first"),
        (CLIP + "data: {type: video}", "F: data.type is 'video', but clip_reid takes images"),
        ("sampler: {train_sampler: identity}\ntrain: {batch_size: 30}", "F: train.batch_size is 30; the sampler 'identity' needs a multiple of sampler.num_instances = 4"),
        (CLIP + "train: {max_epoch: 3}", "F: train.max_epoch is 3, but clip_reid does not use it: set method.stage1.epochs or method.stage2.epochs"),
        (CLIP + "train: {optim: sgd}", "F: train.optim is 'sgd', but clip_reid does not use it: set method.stage2.optimizer"),
        (CLIP + "train: {gamma: 0.5}", "F: train.gamma is 0.5, but clip_reid does not use it: the method states itself what trains and how"),
        (CLIP + "loss: {triplet: {weight_t: 2}}", "F: loss.triplet.weight_t is 2.0, but clip_reid does not use it: set method.stage1.weights.loss_i2t"),
        (CLIP + "model.pretrained: False", "F: model.pretrained is False, but clip_reid does not use it: set backbone.weights to none for random initial weights"),
        ("model: {name: wrapped, pretrained: False}\nbackbone: {stride: 8}", "F: backbone.stride is 8, but wrapped does not use it: it does not build on one of our backbones"),
        ("backbone: {stride: 12}", "F: backbone.stride is 12, but resnet50 does not use it: a torchreid model is chosen by model.name"),
        (CLIP + "backbone: {stride: 17}", "F: backbone.stride is 17; for clip_vit_b16 it must be from 1 to 16, its patch size"),
        (CLIP + "backbone: {stride: 0}", "F: backbone.stride is 0; for clip_vit_b16 it must be from 1 to 16, its patch size"),
        (CLIP + "data: {width: 15}", "F: data.width is 15, smaller than a patch of clip_vit_b16 (16 pixels)"),
        (CLIP + "backbone: {name: clip_rn50, stride: 12}", "F: backbone.stride is 12, but clip_rn50 has a fixed stride of 16"),
        (CLIP + "backbone: {name: clip_rn50, sie_camera: True}", "F: backbone.sie_camera is True, but clip_rn50 has no class token for it"),
        (CLIP + "backbone: {name: lsnet_t}", "F: backbone.name is 'lsnet_t', and clip_reid works on clip_vit_b16, clip_vit_tiny"),
        (CLIP + WGFF + "wgff: {clip: vit_b16}}", "F: backbone.wgff.clip is 'vit_b16'; there are: clip_vit_b16, clip_vit_l14, clip_rn50, clip_vit_tiny"),
        (CLIP + "prompts: {activation: quickgelu}", "F: prompts.activation is 'quickgelu'; there are: , quick_gelu, gelu"),
        (CLIP + WGFF + "wgff: {clip: lsnet_t}}", "F: backbone.wgff.clip is 'lsnet_t'; there are: clip_vit_b16, clip_vit_l14, clip_rn50, clip_vit_tiny"),
        (CLIP + WGFF + "wgff: {lsnet: lsnet_l}}", "F: backbone.wgff.lsnet is 'lsnet_l'; there are: lsnet_t, lsnet_s, lsnet_b, lsnet_mini"),
        (CLIP + WGFF + "wgff: {mode: multiply}}", "F: backbone.wgff.mode is 'multiply'; there are: gate, add"),
        (CLIP + WGFF + "wgff: {lsnet_bn: frozen}}", "F: backbone.wgff.lsnet_bn is 'frozen'; there are: train, eval"),
        (CLIP + WGFF + "wgff: {lr: 0}}", "F: backbone.wgff.lr is 0.0; it must be above 0"),
        (CLIP + WGFF + "stride: 17}", "F: backbone.stride is 17; for clip_vit_b16 it must be from 1 to 16, its patch size"),
        (CLIP + WGFF + "stride: 12, wgff: {clip: clip_rn50}}", "F: backbone.stride is 12, but clip_rn50 has a fixed stride of 16"),
        (CLIP + WGFF + "wgff: {clip: clip_rn50}}", "F: data.norm_mean is [0.5, 0.5, 0.5]; wgff with clip_rn50 reads images in [0.485, 0.456, 0.406]"),
        (CLIP + "backbone: {name: wgff}", "F: data.norm_mean is [0.485, 0.456, 0.406]; wgff with clip_vit_b16 reads images in [0.5, 0.5, 0.5]"),
        (CLIP + WGFF + "weights: none, wgff: {weights: t.pth}}", "F: backbone.wgff.weights is a file, but backbone.weights is 'none': all weights stay random; set it too"),
        ("backbone: {wgff: {mode: add}}", "F: backbone.wgff.mode is 'add', but resnet50 does not use it: a torchreid model is chosen by model.name"),
        (CLIP + "backbone: {weights: embedded}", "F: backbone.weights is 'embedded', which clip_vit_b16 does not have; use 'openai', 'none' or a file"),
        (CLIP + "backbone: {name: clip_vit_tiny, stride: 8}", "F: backbone.weights is 'openai', which clip_vit_tiny does not have; use 'embedded', 'none' or a file"),
        ("train:\n  lr: 1\n   seed: 2", "F, line 3: not valid yaml: mapping values are not allowed here"),
        ("train: [1", "F, line 1: not valid yaml: expected ',' or ']', but got '<stream end>'"),
        ("train:\n  seed: 1\n  seed: 2", "F, line 3: not valid yaml: the key 'seed' is given twice"),
        ("train: {seed: 2026-02-30}", "F: not valid yaml: day is out of range for month"),
        ("a: &a {b: *a}", "F, line 1: not valid yaml: an alias makes it hold itself"),
        ("- 1", "F: not a config: expected keys with values, but it holds list"),
        ("_base_: 3", "F: _base_ is 3, expected a path or a list of paths"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file(write, text, message):
    assert complaint(write(text)) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train.sed", "3"], "command line: there is no key 'train.sed'; the nearest is 'train.seed'"),
        (["train.seed"], "command line: 'train.seed' has no value; give pairs KEY VALUE or KEY=VALUE"),
        (["train.seed", "1", "train.lr"], "command line: 'train.lr' has no value; give pairs KEY VALUE or KEY=VALUE"),
        ([3, "1"], "command line: 3 stands where a key is expected; give pairs KEY VALUE or KEY=VALUE"),
        (["train.seed", "x"], "command line: train.seed is 'x' (str), expected a whole number"),
        (["data.sources", "duke"], "command line: data.sources is 'duke' (str), expected a list such as [a, b]"),
        (["_base_", "x.yaml"], "command line: there is no key '_base_'; the nearest is 'amp.dtype'"),
        (["amp.dtype=fp8"], "command line: amp.dtype is 'fp8'; there are: fp32, fp16, bf16"),
    ],
)
def test_a_mistake_on_the_command_line(write, options, message):
    got = complaint(write(""), options)
    assert got.split("; the nearest")[0] == message.split("; the nearest")[0]
    assert "_base_" in message or got == message


def test_a_key_is_refused_for_what_its_method_declares_not_for_its_name(write):
    file = write("model: {name: wrapped}\nmethod: {alpha: 2.0, gamma: -3.0, loss_factor: -1}")
    assert dict(flatten(load_config(file).method)) == {
        "arch": "resnet50", "train.epochs": 10, "alpha": 2.0, "gamma": -3.0, "loss_factor": -1.0
    }  # fmt: skip
    assert load_config(write(CLIP), ["method.stage2.margin", "null"]).method.stage2.margin is None


@pytest.mark.parametrize(
    ("declared", "inside", "outside", "text"),
    [
        ((0, None), [0, 5.5], [-1e-9], "at least 0"),
        ((None, 3), [-9, 3], [3.1], "at most 3"),
        ((0, 1), [0, 1], [-0.1, 1.1], "from 0 to 1"),
        (ABOVE_0, [1e-9], [0, -1], "above 0"),
        (Range(0, 1, below=True), [0, 0.99], [1], "at least 0 and below 1"),
        (Range(0, 1, above=True, below=True), [0.5], [0, 1], "above 0 and below 1"),
        (Range(1, 2, text="one or two"), [1, 2], [3], "one or two"),
    ],
)
def test_ranges(declared, inside, outside, text):
    allowed = Range.of(declared)
    assert all(x in allowed for x in inside) and not any(x in allowed for x in outside) and str(allowed) == text
    assert under("a.b", {"c": declared}) == {"a.b.c": declared}


def test_a_mistake_in_a_base_names_the_base(write, tmp_path):
    write("train: {sed: 3}", "base.yaml")
    file = write("_base_: base.yaml", "child.yaml")
    assert complaint(file) == f"{tmp_path / 'base.yaml'}: there is no key 'train.sed'; the nearest is 'train.seed'"


def test_missing_files_are_named(write, tmp_path):
    assert complaint(tmp_path / "no.yaml") == "F: there is no such config file"
    assert complaint(tmp_path) == "F: there is no such config file"
    file = write("_base_: sub/no.yaml", "child.yaml")
    assert complaint(file) == f"F: its _base_ {tmp_path / 'sub' / 'no.yaml'} does not exist"


def test_a_circle_of_bases_is_named(write, tmp_path):
    a, b = write("_base_: b.yaml", "a.yaml"), write("_base_: [a.yaml]", "b.yaml")
    assert complaint(a) == f"_base_ goes in a circle: F -> {b} -> F"


def test_a_file_that_is_not_text(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_bytes(b"\xff\xfe\x00\x80")
    assert complaint(file).startswith("F: not a readable text file (")


def test_a_config_is_loaded_from_text():
    cfg = default_config("clip_reid", "clip_vit_tiny", ["train.seed", 7])
    assert load_config(text=resolved_yaml(cfg)) == cfg
    assert load_config(opts=["train.seed", 8], text=resolved_yaml(cfg)).train.seed == 8


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model: [", "weights.pth, line 1: not valid yaml"),
        ("_base_: other.yaml", "weights.pth: text has no folder, so it cannot have a _base_"),
        ("train: {sed: 1}", "weights.pth: there is no key 'train.sed'; the nearest is 'train.seed'"),
        ("model: {name: no_such}", "weights.pth: model.name is 'no_such'"),
    ],
)
def test_mistakes_in_text_name_where_it_is_from(text, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_config("weights.pth", text=text)


def test_a_renamed_section_is_read_under_its_older_name_and_said_once(write, caplog):
    _note_renamed.cache_clear()
    write("mixing: {held_out: 0.1}", "base.yaml")
    older, base = write("mixing: {held_out: 0.25}", "old.yaml"), write("_base_: base.yaml\nensemble: {}", "new.yaml")
    assert load_config(older).ensemble.held_out == 0.25 and load_config(base).ensemble.held_out == 0.1
    assert caplog.text.count("the config section mixing is called ensemble now") == 1
    text = resolved_yaml(load_config(older))
    assert "ensemble:" in text and "mixing" not in text
    saved = text.replace("ensemble:", "mixing:")
    _note_renamed.cache_clear()
    caplog.clear()
    assert load_config(text=saved) == load_config(write("ensemble: {held_out: 0.25}", "of_today.yaml"))
    assert not caplog.records, "a file of weights is not for its user to change"
    for words in (["mixing.held_out", "0.5"], ["mixing.held_out=0.5"], ["ensemble.held_out", 0.5]):
        assert load_config(older, words).ensemble.held_out == 0.5, "whichever is set last counts"
    assert load_config(write("ensemble: {held_out: 0.5}", "o.yaml"), ["mixing.held_out", 0.0]).ensemble.held_out == 0
    assert saved_values(saved)["ensemble.held_out"] == 0.25 and changed_keys(saved, load_config(older)) == {}
    with pytest.raises(ConfigError, match="ensemble.held_out is 2.0; it must be from 0 to 1"):
        load_config(older, ["mixing.held_out", 2])
    with pytest.raises(ConfigError, match="there is no key 'ensemble.held'"):
        load_config(older, ["mixing.held", 2])
