"""The plugin: torchreid's faults and their cures, what register() adds and unregister() takes out, both layouts."""

import contextlib
import copy
import importlib.util
import inspect
import io
import json
import logging
import multiprocessing
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from yacs.config import CfgNode

import occplug
from occplug import torchreid_host as host
from occplug.config import default_config
from occplug.embedding import Embedding
from occplug.engine.freezing import close_layers
from occplug.errors import CheckpointError, ConfigError, DataError, OccplugError
from occplug.evaluation.cuhk03 import evaluate_cuhk03
from occplug.method import Group, Method, Stage, build_method
from occplug.plugin import model as model_module
from occplug.plugin import register
from occplug.plugin.model import packed_distances
from occplug.registry import DATASETS, METHODS, SAMPLERS, TRANSFORMS, names
from occplug.runs.candidates import candidates

torchreid = host.torchreid
HEIGHT, WIDTH = 32, 16
HOST_FILE = Path(host.__file__)
REPOSITORY = HOST_FILE.parents[1]


# ---- a tiny method and a tiny data set


class ToyMethod(Method):
    """Two stages; the last trains all but `text`, of which only the first stage would train anything."""

    defaults = {"prompts": True}
    in_one_stage = {"prompts": False}
    backbones = {"small": "toy_backbone"}

    def __init__(self, cfg, num_classes, num_cameras):
        super().__init__()
        self.cfg, self.num_cameras = cfg, num_cameras
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten())
        self.text = nn.Sequential(nn.Linear(4 * 8 * 4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        self.classifier = nn.Linear(6, num_classes)
        self.scale = nn.Parameter(torch.ones(1))

    def stages(self):
        def stage(name, pattern):
            return Stage(name, 1, [Group(pattern, 1e-3)], lambda batch: {}, {}, lambda epoch: 1.0, torch.optim.Adam)

        return [stage("first", r"text\..*"), stage("second", r"(?!text\.).*")]

    def outputs(self, images, camids=None):
        feature = self.scale * self.text(self.body(images))
        return [self.classifier(feature), 2 * self.classifier(feature)], [feature]

    def features(self, images, camids=None):
        feature = self.text(self.body(images))
        return Embedding(feature.double(), parts=torch.stack([feature, -feature], dim=1))

    def distance(self, query, gallery):
        return torch.cdist(query.vector, gallery.vector) + torch.cdist(query.parts[:, 1], gallery.parts[:, 1])


def write_images(folder, pids, cameras=(1, 2), copies=2, name="{pid:04d}_c{cam}s1_{copy:06d}_00.jpg"):
    """Small JPEGs, one colour per person with noise; returns the sorted paths."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    for pid in pids:
        colour = np.random.default_rng(pid).integers(40, 216, 3)
        for cam in cameras:
            for number in range(copies):
                pixels = np.clip(colour + noise.normal(0, 20, (HEIGHT, WIDTH, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / name.format(pid=pid, cam=cam, copy=number))
    return sorted(folder.iterdir())


class ToySet(host.ImageDataset):
    """All images of `root`, which serve as training, query and gallery images."""

    def __init__(self, root="", **kwargs):
        found = [(str(path), int(path.name[:4]) - 1, int(path.name[6]) - 1) for path in sorted(Path(root).iterdir())]
        super().__init__(found, [item for item in found if item[2] == 0], found, **kwargs)


@contextlib.contextmanager
def entry(registry, name, value):
    names(registry)  # so that the registry's own entries are complete before ours is put beside them
    registry.module_dict[name] = value
    try:
        yield value
    finally:
        del registry.module_dict[name]


def toy_config(model_name, backbone_name=None, opts=()):
    cfg = CfgNode({"model": {"name": model_name}, "backbone": {"name": backbone_name, "weights": "none"}})
    cfg.method = CfgNode({"prompts": True})
    cfg.merge_from_list(list(opts))
    return cfg


@pytest.fixture(autouse=True)
def stock_torchreid():
    """Every test starts and ends with an untouched torchreid."""
    register.unregister()
    yield
    register.unregister()


@pytest.fixture
def toys(monkeypatch):
    """The toy method `toy` and the toy data set `toy_set` in our registries."""
    monkeypatch.setattr("occplug.config.default_config", toy_config)
    with entry(METHODS, "toy", ToyMethod), entry(DATASETS, "toy_set", ToySet):
        yield


@pytest.fixture
def toy_root(tmp_path):
    write_images(tmp_path / "toy", pids=range(1, 5), copies=3)  # torchreid prints Rank-20, so 20 images at least
    return str(tmp_path / "toy")


def toy_manager(root, **options):
    settings = {"height": HEIGHT, "width": WIDTH, "batch_size_train": 8, "workers": 0, "use_gpu": False, **options}
    return torchreid.data.ImageDataManager(root=root, sources="toy_set", **settings)


def stock_engine(manager, model, kind=None, lr=1e-3):
    optimizer = torchreid.optim.build_optimizer(model, optim="sgd", lr=lr)
    scheduler = torchreid.optim.build_lr_scheduler(optimizer, stepsize=1)
    return (kind or host.ImageTripletEngine)(manager, model, optimizer, scheduler=scheduler, use_gpu=False)


def snapshot():
    """Everything register() may touch, with the objects themselves."""
    modules = [host.sub(name) for name in ("data.datamanager", "data.datasets.dataset", "metrics", "metrics.rank")]
    modules += [host.sub(name) for name in ("data.sampler", "data.transforms", "utils.tools", "utils.torchtools")]
    tables = [host.MODELS, host.IMAGE_DATASETS, *map(vars, modules), vars(host.Engine)]
    return [list(table.items()) for table in tables], allowed()


def allowed():
    """Which of the host's safe globals torch knows now; torch adds many of its own at its first use of them."""
    return {str(entry) for entry in host._scalar_globals() if entry in torch.serialization.get_safe_globals()}


def same(first, second):
    return first[1] == second[1] and all(
        len(a) == len(b) and all(ka == kb and va is vb for (ka, va), (kb, vb) in zip(a, b))
        for a, b in zip(first[0], second[0])
    )


# ---- register and unregister


def test_unregister_restores_every_entry_and_function(toys):
    before = snapshot()
    occplug.register()
    assert not same(before, snapshot())
    occplug.unregister()
    assert same(before, snapshot())
    occplug.unregister()
    assert same(before, snapshot())


def test_registering_twice_changes_nothing_more(toys):
    before = snapshot()
    occplug.register()
    once = snapshot()
    occplug.register()
    assert same(once, snapshot())
    occplug.unregister()
    assert same(before, snapshot())


def test_registering_again_adds_what_is_new(toys):
    before = snapshot()
    occplug.register()
    with entry(DATASETS, "later_set", ToySet):
        occplug.register()
        assert host.IMAGE_DATASETS["later_set"] is ToySet
        occplug.unregister()
    assert same(before, snapshot())


def test_all_registered_names_reach_torchreid(toys):
    occplug.register()
    assert host.MODELS.keys() >= {"toy_small", "resnet50", "osnet_x0_25"}
    assert host.IMAGE_DATASETS.keys() >= set(names(DATASETS))
    for name in ("clip_reid_vit_b16", "clip_reid_rn50", "clip_reid_vit_tiny"):
        assert name in host.MODELS
    for name in ("market1501", "dukemtmcreid", "msmt17"):
        ours = host.IMAGE_DATASETS[name]
        assert ours is DATASETS.get(name) and issubclass(ours, host.stock_dataset(name))
        assert ours is not host.stock_dataset(name)


def test_what_others_change_later_is_left_alone(toys):
    occplug.register()

    def theirs(*args, **kwargs):
        return None

    kept = host.manager.build_transforms
    try:
        host.manager.build_transforms = theirs
        host.IMAGE_DATASETS["their_set"] = ToySet
        occplug.register()
        assert host.manager.build_transforms is theirs
        occplug.unregister()
        assert host.manager.build_transforms is theirs
        assert host.IMAGE_DATASETS["their_set"] is ToySet
        assert "toy_set" not in host.IMAGE_DATASETS
    finally:
        host.manager.build_transforms = host.stock_build_transforms
        host.IMAGE_DATASETS.pop("their_set", None)
    assert kept is register._build_transforms


def test_a_taken_name_is_an_error_and_leaves_torchreid_as_it_was(toys):
    host.IMAGE_DATASETS["toy_set"] = dict
    before = snapshot()
    try:
        with pytest.raises(ConfigError, match=r"^torchreid already has a 'toy_set' \(<class 'dict'>\); remove it"):
            occplug.register()
        assert same(before, snapshot())
    finally:
        del host.IMAGE_DATASETS["toy_set"]


# ---- layouts and versions


def facts(host, register, folder):
    """What must be the same in both layouts; also run in a process of its own."""
    torchreid = host.torchreid

    def state():
        return sorted(host.MODELS), sorted(host.IMAGE_DATASETS), host.manager.build_transforms.__name__

    before = state()
    register.register()
    registered = state()
    model = torchreid.models.build_model("osnet_x0_25", num_classes=3, loss="triplet", pretrained=False)
    saved = {"state_dict": model.state_dict(), "epoch": 1, "rank1": host.np.float64(0.5)}
    torchreid.utils.save_checkpoint(saved, folder)
    path = folder + "/model.pth.tar-1"
    readable = [torchreid.utils.resume_from_checkpoint(path, model), len(host.load_stock_checkpoint(path))]
    torchreid.utils.load_pretrained_weights(model, path)
    register.unregister()
    try:
        torchreid.utils.load_pretrained_weights(model, path)
    except Exception as err:
        readable.append(type(err).__name__)
    stock = [host.stock_model_names(), host.stock_dataset("viper").__name__, sorted(host.stock_transforms())]
    return [before, registered, state(), readable, stock, host.Engine.__name__]


def upstream_layout(folder):
    """torchreid 1.4.0's layout from the installed 0.2.5: the same code one package higher."""
    source = Path(sys.modules[host.ROOT].__file__).parent
    shutil.copytree(source, folder / "torchreid", ignore=shutil.ignore_patterns("__pycache__"))
    for file in (folder / "torchreid").rglob("*.py"):
        file.write_text(file.read_text().replace("torchreid.reid", "torchreid"))
    return folder


def report_of_upstream(folder):
    """`facts` as a process with torchreid 1.4.0's layout finds them."""
    script = f"""
import contextlib, io, json, sys
sys.path[:0] = [{str(upstream_layout(folder))!r}, {str(REPOSITORY)!r}]
{inspect.getsource(facts)}
with contextlib.redirect_stdout(io.StringIO()):
    from occplug import torchreid_host as host
    from occplug.plugin import register
    found = facts(host, register, {str(folder)!r})
print(json.dumps({{"version": host.torchreid.__version__, "root": host.ROOT, "facts": found}}))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(host.ROOT != "torchreid.reid", reason="the installed torchreid already has the upstream layout")
def test_both_layouts_behave_alike(tmp_path):
    upstream = report_of_upstream(tmp_path / "upstream")
    assert (upstream["version"], upstream["root"]) == ("1.4.0", "torchreid")
    packaged = json.loads(json.dumps(facts(host, register, str(tmp_path))))
    assert upstream["facts"] == packaged
    before, registered, after, readable, *_ = packaged
    assert registered != before and after == before and readable == [1, 3, "UnpicklingError"]


def fresh_host():
    """The host's file executed again, as on a first import."""
    spec = importlib.util.spec_from_file_location("fresh_host", HOST_FILE)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize(
    ("owner", "name", "value", "message"),
    [
        ("models", "__model_factory", None, r"models has no __model_factory"),
        ("models", "__model_factory", {"resnet51": 1}, r"__model_factory is not a table with an entry 'resnet50'"),
        ("data.datasets", "__image_datasets", [1], r"__image_datasets is not a table with an entry 'market1501'"),
        ("data.datamanager", "build_transforms", lambda width: 0, r"has no parameter height, norm_mean, norm_std, tr"),
        ("metrics", "evaluate_rank", lambda *args: None, r"evaluate_rank has no parameter distmat"),
        ("data.datasets.dataset", "read_image", None, r"dataset has no read_image"),
        ("engine", "ImageTripletEngine", None, r"engine has no ImageTripletEngine"),
    ],
)
def test_another_torchreid_is_refused_by_name_and_version(monkeypatch, owner, name, value, message):
    fresh_host()
    monkeypatch.setattr(host.sub(owner), name, value)
    version = re.escape(torchreid.__version__)
    with pytest.raises(OccplugError, match=rf"{message}.*: torchreid {version} is not laid out as occplug knows it"):
        fresh_host()


def test_a_missing_module_is_refused_by_name_and_version():
    with pytest.raises(OccplugError, match=r"^there is no module torchreid.*\.data\.nothing: torchreid \d"):
        host.sub("data.nothing")


def test_a_missing_torchreid_is_an_error_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchreid", None)
    with pytest.raises(OccplugError, match=r"^torchreid cannot be imported .*; installing occplug by pip brings"):
        fresh_host()


# ---- torchreid's own parts


def test_stock_models_are_built_by_name():
    model = host.build_stock_model("osnet_x0_25", 7, "triplet", False, False)
    logits, features = model.train()(torch.randn(2, 3, 64, 32))
    assert logits.shape == (2, 7) and features.shape == (2, 512)
    assert "resnet50" in host.stock_model_names() and host.stock_model_names() == sorted(host.stock_model_names())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: host.build_stock_model("resnet5O", 7, "softmax", False, False), r"no model called 'resnet5O' \(did"),
        (lambda: host.stock_dataset("market1502"), r"no image data set called 'market1502' \(did you mean 'market15"),
        (lambda: host.stock_sampler("identity", [], 4), r"no sampler called 'identity'.*; there are: Random"),
    ],
)
def test_unknown_stock_names_are_errors(toys, call, message):
    occplug.register()  # our entries must not count as torchreid's
    with pytest.raises(ConfigError, match=message):
        call()


def test_stock_parts_are_torchreids_while_registered():
    market = host.IMAGE_DATASETS["market1501"]
    occplug.register()
    assert host.stock_dataset("market1501") is market
    data = [("a", pid, 0, 0) for pid in (0, 0, 1, 1)]
    sampler = host.stock_sampler("RandomIdentitySampler", data, batch_size=4, num_instances=2)
    assert type(sampler) is host.sub("data.sampler").RandomIdentitySampler
    assert host.stock_transforms()["random_erase"] is host.sub("data.transforms").RandomErasing
    assert set(host.stock_transforms()) < set(host.STOCK_TRANSFORMS)


# ---- fault: a checkpoint torchreid saved cannot be read


@pytest.fixture
def stock_checkpoint(tmp_path):
    """A file as torchreid's engine writes it, the rank1 a numpy scalar; with the model it was saved from."""
    model = torchreid.models.build_model("osnet_x0_25", num_classes=3, pretrained=False)
    optimizer = torch.optim.Adam(model.parameters())
    state = {
        "state_dict": model.state_dict(),
        "epoch": 3,
        "rank1": np.float32([0.25, 0.5])[0],
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1).state_dict(),
    }
    torchreid.utils.save_checkpoint(state, str(tmp_path))
    return str(tmp_path / "model.pth.tar-3"), model


def test_stock_checkpoints_load_only_while_registered(stock_checkpoint):
    path, trained = stock_checkpoint
    fresh = torchreid.models.build_model("osnet_x0_25", num_classes=3, pretrained=False)
    optimizer = torch.optim.Adam(fresh.parameters())
    uses = [
        lambda: torchreid.utils.load_pretrained_weights(fresh, path),
        lambda: torchreid.utils.resume_from_checkpoint(path, fresh, optimizer),
        lambda: torchreid.utils.FeatureExtractor("osnet_x0_25", path, device="cpu", verbose=False),
    ]
    for use in uses:
        with pytest.raises(pickle.UnpicklingError, match="weights_only"):
            use()
    occplug.register()
    uses[0]()
    assert uses[1]() == 3
    images = torch.randn(2, 3, 64, 32)
    expected = trained.eval()(images)
    assert torch.equal(fresh.eval()(images), expected) and torch.equal(uses[2]()(images), expected)
    occplug.unregister()
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        uses[0]()


def test_checkpoints_written_under_numpy_1_load_too(stock_checkpoint, tmp_path):
    path, _ = stock_checkpoint
    older = tmp_path / "older.pth.tar"
    older.write_bytes(rename_in_archive(path, b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert host.load_stock_checkpoint(older)["rank1"] == 0.25


def rename_in_archive(path, old, new):
    """The zip archive at `path` with `old` replaced in its pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(buffer, "w") as target:
        for item in source.namelist():
            content = source.read(item)
            if item.endswith("data.pkl"):
                assert old in content
                content = content.replace(b"c" + old, b"c" + new)
            target.writestr(item, content)
    return buffer.getvalue()


def test_load_stock_checkpoint_reads_without_registering(stock_checkpoint):
    path, model = stock_checkpoint
    content = host.load_stock_checkpoint(path)
    assert content["epoch"] == 3 and content["rank1"] == 0.25
    assert all(torch.equal(content["state_dict"][key], value) for key, value in model.state_dict().items())
    assert allowed() == set()


def test_safe_globals_nests_and_keeps_what_others_allowed():
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([np.dtype, ToySet])
    try:
        with host.safe_globals():
            with host.safe_globals():
                inside = allowed()
            assert allowed() == inside and len(inside) == 5
        assert set(torch.serialization.get_safe_globals()) == {*before, np.dtype, ToySet}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


class Harmful:
    def __reduce__(self):
        return exec, ("raise SystemExit('code from a checkpoint was run')",)


def test_bad_checkpoints_are_errors_that_name_the_file(stock_checkpoint, tmp_path):
    path, _ = stock_checkpoint
    whole = Path(path).read_bytes()
    files = {"short": whole[: len(whole) // 2], "text": b"no archive\n", "empty": b"", "noise": bytes(range(256)) * 9}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"{tmp_path / name} is damaged, or holds more than tensors and "):
            host.load_stock_checkpoint(tmp_path / name)
    torch.save({"state_dict": Harmful()}, tmp_path / "harmful")
    with pytest.raises(CheckpointError, match="harmful is damaged, or holds more than tensors and numbers"):
        host.load_stock_checkpoint(tmp_path / "harmful")
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(CheckpointError, match="list holds a list, expected the dict torchreid saves"):
        host.load_stock_checkpoint(tmp_path / "list")
    with pytest.raises(CheckpointError, match="there is no checkpoint at .*nowhere; torchreid writes"):
        host.load_stock_checkpoint(tmp_path / "nowhere")


# ---- fault: a broken image is read for ever


def read_quietly(path):
    with open("/dev/null", "w") as nowhere, contextlib.redirect_stdout(nowhere):
        host.sub("utils.tools").read_image(path)


def test_a_broken_image_hangs_torchreid_and_is_an_error_while_registered(toys, toy_root):
    broken = sorted(Path(toy_root).iterdir())[0]
    broken.write_bytes(b"no image")
    attempt = multiprocessing.get_context("fork").Process(target=read_quietly, args=(str(broken),), daemon=True)
    attempt.start()
    attempt.join(1.0)
    hangs = attempt.is_alive()
    attempt.kill()
    attempt.join()
    assert hangs, "torchreid no longer hangs: the cure can go"
    occplug.register()
    data = ToySet(toy_root, transform=None, verbose=False)
    with pytest.raises(DataError, match=re.escape(str(broken))):
        data[0]
    assert data[1]["img"].size == (WIDTH, HEIGHT)


# ---- fault: every epoch opens frozen layers again


def test_torchreid_opens_frozen_layers_and_close_layers_closes_them():
    model = ToyMethod(None, 3, 1)
    model.text.requires_grad_(False)
    host.sub("utils.torchtools").open_all_layers(model)
    assert model.text[0].weight.requires_grad and model.text[1].training, "torchreid no longer thaws: the cure can go"
    model.text.requires_grad_(False)
    close_layers(model)
    closed = {name for name, module in model.named_modules() if not module.training}
    assert closed == {"text", "text.0", "text.1", "text.2"}


def test_close_layers_looks_at_each_module():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), nn.Dropout(), nn.BatchNorm1d(2))
    model[0][1].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    close_layers(model.eval())
    modes = {name: module.training for name, module in model.named_modules()}
    assert modes == {"": True, "0": True, "0.0": True, "0.1": False, "1": True, "2": True}


def test_our_models_stay_closed_over_epochs_of_torchreids_engine(toys, toy_root, tmp_path):
    occplug.register()
    plain = ToyMethod(None, 4, 1)
    plain.text.requires_grad_(False)
    plain.forward = lambda images: plain.outputs(images) if plain.training else plain.embed(images).pack()
    ours = torchreid.models.build_model("toy_small", num_classes=4, loss="triplet", pretrained=False)
    changed = []
    for model, method, metric in ((plain, plain, "euclidean"), (ours, ours.method, "toy")):
        before = copy.deepcopy(method.state_dict())
        engine = stock_engine(toy_manager(toy_root), model, lr=0.1)
        engine.run(save_dir=str(tmp_path / "log"), max_epoch=2, dist_metric=metric)
        after = method.state_dict()
        changed.append({key for key in before if not torch.equal(before[key], after[key])})
    text = {key for key in changed[0] if key.startswith("text.")}
    assert text >= {"text.0.weight", "text.1.running_mean"}, "torchreid no longer thaws: the cure can go"
    assert changed[1] == changed[0] - text
    assert {"body.0.weight", "body.1.running_mean", "classifier.weight", "scale"} <= changed[1]


# ---- fault: np.bool


def random_ranking(queries=20, gallery=60, people=6, cameras=3, seed=0):
    draw = np.random.default_rng(seed)
    distances = draw.random((queries, gallery), dtype=np.float32)
    ids = [draw.integers(0, people, n) for n in (queries, gallery)]
    cams = [draw.integers(0, cameras, n) for n in (queries, gallery)]
    return distances, ids[0], ids[1], cams[0], cams[1]


def test_the_cuhk03_metric_works_without_np_bool(monkeypatch):
    case = random_ranking()
    np.random.seed(0)
    expected = host.stock_evaluate_rank(*case, use_metric_cuhk03=True)
    monkeypatch.delattr(np, "bool", raising=False)
    with pytest.raises(AttributeError, match="bool"):
        host.stock_evaluate_rank(*case, use_metric_cuhk03=True)
    occplug.register()
    np.random.seed(0)
    cmc, mean_ap = host.metrics.evaluate_rank(*case, use_metric_cuhk03=True)
    assert np.array_equal(cmc, expected[0]) and mean_ap == expected[1]
    occplug.unregister()
    np.random.seed(0)
    result = evaluate_cuhk03(*case)
    assert np.array_equal(result.cmc, expected[0]) and result.mAP == expected[1]
    assert len(result.ap) == len(case[1]) and result.summary()["rank1"] == pytest.approx(expected[0][0])
    assert host._rank.np is np


def test_the_cuhk03_metric_of_queries_without_a_match_is_a_data_error():
    distances, q_pids, g_pids, q_camids, g_camids = random_ranking()
    with pytest.raises(DataError, match="none of the 20 queries has a match in the gallery"):
        evaluate_cuhk03(distances, q_pids + 100, g_pids, q_camids, g_camids)


# ---- fault: slow ranking


def test_ranking_is_ours_while_registered_with_the_same_values():
    case = random_ranking(gallery=200)
    stock = host.metrics.evaluate_rank(*case)
    occplug.register()
    ours = host.metrics.evaluate_rank(*case)
    assert host.metrics.evaluate_rank is not host.stock_evaluate_rank
    np.testing.assert_allclose(ours[0], stock[0], atol=1e-6)
    assert ours[1] == pytest.approx(stock[1], abs=1e-6)
    np.random.seed(1)
    cuhk03 = host.metrics.evaluate_rank(*case, max_rank=5, use_metric_cuhk03=True)
    np.random.seed(1)
    expected = host.stock_evaluate_rank(*case, max_rank=5, use_metric_cuhk03=True)
    assert len(cuhk03[0]) == 5 and np.array_equal(cuhk03[0], expected[0]) and cuhk03[1] == expected[1]


def test_ranking_is_many_times_faster_while_registered():
    case = random_ranking(queries=150, gallery=3000, people=100)
    spent = []
    for _ in range(2):
        start = time.process_time()
        host.metrics.evaluate_rank(*case)
        spent.append(time.process_time() - start)
        occplug.register()
        host.metrics.evaluate_rank(*case)  # the first call imports
    assert spent[0] > 5 * spent[1]  # about 50 times; the bound leaves room for a busy machine


# ---- fault: labels in the order of a set


def test_market_labels_are_sorted_only_while_registered(tmp_path):
    home = tmp_path / "market1501" / "Market-1501-v15.09.15"
    write_images(home / "bounding_box_train", pids=(1, 8))
    write_images(home / "query", pids=(2, 3), cameras=(1,))
    write_images(home / "bounding_box_test", pids=(2, 3))

    def labels():
        data = host.sub("data.datasets").init_image_dataset("market1501", root=str(tmp_path), verbose=False)
        return {Path(item[0]).name[:4]: item[1] for item in data.train}

    assert labels() == {"0001": 1, "0008": 0}, "torchreid now sorts: the cure can go"
    occplug.register()
    assert labels() == {"0001": 0, "0008": 1}
    occplug.unregister()
    assert labels() == {"0001": 1, "0008": 0}


# ---- models in torchreid's engines


def toy_model(loss, num_classes=5):
    return model_module.TorchreidModel(ToyMethod(toy_config("toy"), num_classes, 1), loss)


def test_forward_returns_what_each_engine_expects():
    images = torch.randn(3, 3, HEIGHT, WIDTH)
    for loss in ("softmax", "triplet"):
        model = toy_model(loss)
        trained = model.train()(images)
        logits = trained if loss == "softmax" else trained[0]
        assert isinstance(logits, list) and [tuple(score.shape) for score in logits] == [(3, 5), (3, 5)]
        if loss == "triplet":
            assert isinstance(trained, tuple) and [tuple(feature.shape) for feature in trained[1]] == [(3, 6)]
        tested = model.eval()(images)
        assert tested.shape == (3, 18) and tested.dtype == torch.float32 and not tested.requires_grad
        assert torch.equal(tested[:, :6], tested[:, 6:12]) and torch.equal(tested[:, :6], -tested[:, 12:])


def test_an_unknown_loss_is_an_error():
    with pytest.raises(ConfigError, match=r"^loss is 'arcface'; torchreid's engines know 'softmax' and 'triplet'$"):
        toy_model("arcface")


def test_models_are_built_with_torchreids_arguments_and_without_prompts(toys):
    occplug.register()
    model = torchreid.models.build_model("toy_small", num_classes=5, loss="triplet", pretrained=False)
    assert model.loss == "triplet" and model.classifier.out_features == 5
    assert model.cfg.model.name == "toy" and model.cfg.backbone.name == "toy_backbone"
    assert model.cfg.method.prompts is False
    assert torchreid.models.build_model("toy_small", 2).loss == "softmax"


def test_children_and_checkpoint_keys_are_the_methods_own():
    model = toy_model("softmax")
    assert [name for name, _ in model.named_children()] == ["body", "text", "classifier"]
    assert list(model.state_dict()) == list(model.method.state_dict())
    wrapped = nn.DataParallel(model)
    assert list(wrapped.state_dict()) == ["module." + key for key in model.method.state_dict()]
    other = toy_model("softmax")
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    nn.DataParallel(toy_model("softmax")).load_state_dict(wrapped.state_dict())
    state = model.state_dict()
    state["extra"] = state.pop("scale")
    with pytest.raises(RuntimeError, match=r"Missing.*scale[\s\S]*Unexpected.*extra"):
        other.load_state_dict(state)
    assert torch.equal(copy.deepcopy(model).eval()(torch.ones(2, 3, 32, 16)), model.eval()(torch.ones(2, 3, 32, 16)))


def test_modes_and_moves_reach_the_whole_method():
    model = toy_model("softmax").eval()
    assert not any(module.training for module in model.modules())
    assert {name for name, module in model.train().named_modules() if not module.training} == {
        f"method.text{part}" for part in ("", ".0", ".1", ".2")
    }
    assert {parameter.dtype for parameter in model.to(torch.float64).parameters()} == {torch.float64}


def test_open_layers_and_new_layers_take_the_methods_names():
    model = toy_model("softmax")
    host.sub("utils.torchtools").open_specified_layers(model, "classifier")
    opened = {name for name, parameter in model.method.named_parameters() if parameter.requires_grad}
    assert opened == {"classifier.weight", "classifier.bias", "scale"}  # torchreid looks at children only
    assert model.classifier.training and not model.body.training
    optimizer = host.build_optimizer(model, lr=1.0, staged_lr=True, new_layers="classifier", base_lr_mult=0.1)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 1.0]
    assert {id(p) for p in optimizer.param_groups[1]["params"]} == {id(p) for p in model.classifier.parameters()}
    with pytest.raises(AssertionError, match='"head" is not an attribute'):
        host.sub("utils.torchtools").open_specified_layers(model, "head")


@pytest.mark.parametrize("kind", ["ImageSoftmaxEngine", "ImageTripletEngine"])
def test_torchreids_engines_train_resume_and_extract_with_our_models(toys, toy_root, tmp_path, kind):
    occplug.register()
    manager = toy_manager(toy_root, train_sampler="RandomIdentitySampler", num_instances=2)
    loss = "triplet" if "Triplet" in kind else "softmax"
    model = torchreid.models.build_model("toy_small", num_classes=manager.num_train_pids, loss=loss, pretrained=False)
    engine = stock_engine(manager, model, getattr(host, kind))
    options = {"max_epoch": 2, "eval_freq": 1, "fixbase_epoch": 1, "open_layers": "classifier", "dist_metric": "toy"}
    engine.run(save_dir=str(tmp_path / "log"), **options)
    path = str(tmp_path / "log" / "model" / "model.pth.tar-2")
    again = torchreid.models.build_model("toy_small", num_classes=manager.num_train_pids, pretrained=False)
    assert torchreid.utils.resume_from_checkpoint(path, again) == 2
    images = torch.randn(2, 3, HEIGHT, WIDTH)
    assert torch.equal(again.eval()(images), model.eval()(images))
    extractor = torchreid.utils.FeatureExtractor("toy_small", path, image_size=(HEIGHT, WIDTH), device="cpu")
    assert torch.equal(extractor(images), model(images))


def test_a_methods_name_is_its_distance_in_torchreids_test(toys, toy_root):
    """Batches of two, so that the engine puts packed embeddings together; re-ranking asks for distances as well."""
    occplug.register()
    model = torchreid.models.build_model("toy_small", num_classes=4, loss="triplet", pretrained=False).eval()
    manager = toy_manager(toy_root, batch_size_test=2)
    engine = stock_engine(manager, model)
    seen = []
    whole = ToySet(toy_root, verbose=False)
    for items in (whole.query, whole.gallery):
        pixels = [manager.transform_te(Image.open(path).convert("RGB")) for path, *_ in items]
        seen.append(model.method.embed(torch.stack(pixels)))
    expected = model.method.distance(*seen)
    ids = [np.array([item[place] for item in part]) for place in (1, 2) for part in (whole.query, whole.gallery)]
    cmc, _ = host.stock_evaluate_rank(expected.numpy(), *ids, max_rank=20, use_cython=False)
    assert engine.test(dist_metric="toy") == pytest.approx(cmc[0])
    engine.test(dist_metric="toy", rerank=True)


@pytest.mark.parametrize("squared", [False, True])
def test_reranking_in_torchreids_test_squares_plain_distances_alone(toys, toy_root, monkeypatch, squared):
    occplug.register()
    monkeypatch.setattr(ToyMethod, "squared_distance", squared)
    model = torchreid.models.build_model("toy_small", num_classes=4, loss="triplet", pretrained=False).eval()
    engine, given = stock_engine(toy_manager(toy_root), model), []

    def noted(distances, *ids, **options):
        given.append(np.asarray(distances))
        return host.stock_evaluate_rank(distances, *ids, max_rank=20, use_cython=False)

    monkeypatch.setattr(host.metrics, "evaluate_rank", noted)
    engine.test(dist_metric="toy", rerank=True)
    whole = ToySet(toy_root, verbose=False)
    transform = engine.datamanager.transform_te
    sides = [[transform(Image.open(path).convert("RGB")) for path, *_ in part] for part in (whole.query, whole.gallery)]
    query, gallery = (model.method.embed(torch.stack(side)) for side in sides)
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    plain = [model.method.distance(*pair).clamp(min=0).numpy() for pair in pairs]
    expected = host.stock_re_ranking(*(np.sqrt(each) if squared else each for each in plain))
    np.testing.assert_allclose(given[0], expected, atol=1e-5)


def test_layers_that_a_method_keeps_frozen_stay_so_in_copies_of_the_model():
    """DataParallel copies the parameters, which torchreid has opened at the start of the epoch, before `forward`."""
    model = toy_model("softmax")
    host.sub("utils.torchtools").open_all_layers(model)
    before = copy.deepcopy(model.state_dict())
    frozen = {f"method.{name}" for name, _ in model.method.named_parameters() if name.startswith("text.")}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    copies = {name: parameter.clone() for name, parameter in model.named_parameters()}  # as `replicate` broadcasts them
    assert frozen and all(copies[name].requires_grad for name in frozen)
    logits = torch.func.functional_call(model, copies, torch.randn(4, 3, HEIGHT, WIDTH))
    sum(one.square().sum() for one in logits).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "classifier.weight" in changed and not any(name.startswith("text.") for name in changed)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_stock_distance_of_several_fields_is_refused_before_training(toys, toy_root, tmp_path, metric):
    occplug.register()
    model = torchreid.models.build_model("toy_small", num_classes=4, loss="triplet", pretrained=False)
    engine, before = stock_engine(toy_manager(toy_root), model), copy.deepcopy(model.state_dict())
    message = f"dist_metric is '{metric}', but these embeddings hold vector, parts, and .* dist_metric='toy'"
    with pytest.raises(ConfigError, match=message):
        engine.run(save_dir=str(tmp_path / "log"), max_epoch=1, dist_metric=metric)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    for name in ("toy", metric):
        with pytest.raises(ConfigError, match="hold vector, parts side by side, .* set normalize_feature to False"):
            engine.run(save_dir=str(tmp_path / "log"), max_epoch=1, dist_metric=name, normalize_feature=True)
    with pytest.raises(
        ConfigError, match="dist_metric is 'profd', but these .* method's distance is dist_metric='toy'"
    ):
        engine.run(save_dir=str(tmp_path / "log"), max_epoch=1, dist_metric="profd")
    engine._models["model"] = nn.DataParallel(model)
    engine._models["model"].device_ids = [0, 1]
    with pytest.raises(ConfigError, match="DataParallel over several GPUs gathers plain tensors"):
        engine.run(save_dir=str(tmp_path / "log"), max_epoch=1, dist_metric="toy")


def test_features_are_plain_tensors_with_a_layout_beside_them(tmp_path):
    model = toy_model("softmax").eval()
    images = torch.randn(4, 3, HEIGHT, WIDTH)
    packed, embedding = model(images), model.method.embed(images)
    assert type(packed) is torch.Tensor and model.layout == embedding.layout()
    assert torch.equal(Embedding.unpack(packed, model.layout).parts, embedding.parts)
    with pytest.warns(DeprecationWarning, match="PackedEmbeddings is occplug.embedding.Embedding now"):
        assert model_module.PackedEmbeddings is Embedding


def test_the_distance_is_bound_only_while_the_engine_tests(toys, toy_root):
    occplug.register()
    model = torchreid.models.build_model("toy_small", num_classes=4, loss="triplet", pretrained=False)
    engine = stock_engine(toy_manager(toy_root), model)
    engine.test(dist_metric="toy")
    features = model.eval()(torch.randn(2, 3, HEIGHT, WIDTH))
    with pytest.raises(ConfigError, match="outside torchreid's engines they are plain tensors"):
        host.metrics.compute_distance_matrix(features, features, "toy")
    with pytest.raises(ConfigError, match="hold vector, parts side by side"):
        engine.test(dist_metric="toy", normalize_feature=True)
    with pytest.raises(ConfigError, match="dist_metric='toy'"):
        engine.test()


def test_dpm_compares_features_with_their_masks_beside_them():
    from occplug.evaluation import masked_distance

    occplug.register()
    feature, mask, other = torch.randn(3, 8), torch.rand(3, 8), torch.randn(5, 8)
    query, gallery = torch.cat([feature, mask], dim=1), torch.cat([other, torch.rand(5, 8)], dim=1)
    found = host.metrics.compute_distance_matrix(query, gallery, "dpm")
    assert torch.equal(found, masked_distance(feature, mask, other))
    cosine = 1 - nn.functional.normalize(feature * mask) @ nn.functional.normalize(other).T
    assert not torch.allclose(found.cos(), 1 - cosine, atol=1e-3)  # the query's mask is on the gallery
    with pytest.raises(ConfigError, match="'profd', which compares embeddings as occplug's models return them"):
        host.metrics.compute_distance_matrix(query, gallery, "profd")
    assert torch.equal(host.metrics.compute_distance_matrix(query, gallery), host.stock_distances(query, gallery))


def test_torchreids_evaluation_still_has_the_parameters_our_engines_override():
    expected = (
        "self dataset_name query_loader gallery_loader dist_metric normalize_feature visrank visrank_topk save_dir "
        "use_metric_cuhk03 ranks rerank"
    )
    assert list(inspect.signature(host.Engine._evaluate).parameters) == expected.split()


# ---- transforms and samplers by name


def test_stock_transforms_go_to_torchreids_builder(capsys):
    stock = host.stock_build_transforms
    for wanted in ("random_flip", None, [], ["random_flip", "Random_Erase"], list(host.STOCK_TRANSFORMS)):
        occplug.register()
        ours = host.manager.build_transforms(32, 16, transforms=wanted, norm_mean=None, norm_std=None)
        occplug.unregister()
        assert [str(part) for part in map(strip_addresses, ours)] == [
            str(part) for part in map(strip_addresses, stock(32, 16, transforms=wanted))
        ]
    occplug.register()
    with pytest.raises(ValueError, match="transforms must be a list of strings"):
        host.manager.build_transforms(32, 16, transforms=("random_flip",))


def strip_addresses(pipeline):
    return re.sub(r"0x[0-9a-f]+", "", repr(pipeline))


def test_a_name_neither_side_knows_is_a_warning(caplog):
    occplug.register()
    with caplog.at_level(logging.WARNING, logger="occplug"):
        logging.getLogger("occplug").propagate = True
        host.manager.build_transforms(32, 16, transforms=["random_flip", "random_flap"])
    assert set(caplog.messages) == {"torchreid ignores the transform 'random_flap', which it does not know"}


def test_a_list_with_a_name_of_ours_goes_to_our_pipeline():
    ours = sorted(set(names(TRANSFORMS)) - set(host.STOCK_TRANSFORMS))
    assert "random_erase_pixel" in ours
    image = Image.fromarray(np.full((40, 20, 3), 128, np.uint8))
    silently_ignored, _ = host.manager.build_transforms(32, 16, transforms=["random_erase_pixel"])
    assert all(torch.unique(silently_ignored(image)[0]).numel() == 1 for _ in range(20))
    occplug.register()
    with pytest.raises(ConfigError, match="random_flap"):
        host.manager.build_transforms(32, 16, transforms=["random_flap", "random_erase_pixel"])
    train, test = host.manager.build_transforms(32, 16, transforms=["random_flip", "random_erase_pixel"])
    torch.manual_seed(0)
    samples = [train(image) for _ in range(20)]
    assert all(sample.shape == (3, 32, 16) and sample.dtype == torch.float32 for sample in samples)
    assert any(torch.unique(sample[0]).numel() > 10 for sample in samples)
    assert test(image)[:, 0, 0].tolist() == pytest.approx([0.0740, 0.2052, 0.4265], abs=2e-3)  # ImageNet constants


@pytest.mark.parametrize("workers", [0, 1])
def test_our_occluders_work_by_name_in_torchreids_manager(toys, toy_root, workers):
    """`oamn` cuts from the training images, which torchreid's manager lists after it has built the transforms."""
    occplug.register()
    plain = toy_manager(toy_root, transforms=["pad_crop"])
    manager = toy_manager(toy_root, transforms=["rwoa", "oia", "oamn"], workers=workers)
    oamn = manager.transform_tr.per_image.image[2]
    assert (
        oamn.items == plain.train_loader.dataset.train == manager.train_loader.dataset.train and not register._unbound
    )
    batches = list(manager.train_loader)
    assert all(batch["img"].shape[1:] == (3, HEIGHT, WIDTH) for batch in batches)
    for transform in manager.transform_tr.per_image.image:
        assert 0 < transform.tally["occluded"] < transform.tally["seen"], transform.name
    occplug.unregister()


def test_our_sampler_works_by_name_in_torchreids_manager(toys, toy_root):
    with pytest.raises(ValueError, match="Invalid dataset name"):
        toy_manager(toy_root)
    occplug.register()
    with pytest.raises(AssertionError, match="train_sampler must be one of"):
        toy_manager(toy_root, train_sampler="nothing")
    manager = toy_manager(toy_root, train_sampler="identity", num_instances=2)
    assert type(manager.train_loader.sampler.sampler) is SAMPLERS.get("identity")
    batches = [batch["pid"].tolist() for batch in manager.train_loader]
    assert batches and all(sorted(batch.count(pid) for pid in set(batch)) == [2, 2, 2, 2] for batch in batches)
    occplug.unregister()
    with pytest.raises(ValueError, match="Invalid dataset name"):
        toy_manager(toy_root)


def test_our_sampler_draws_again_every_epoch_from_torchs_seed(toys, toy_root):
    occplug.register()
    data = ToySet(toy_root, verbose=False).train

    def epochs(seed):
        torch.manual_seed(seed)
        sampler = host.manager.build_train_sampler(data, "identity", batch_size=4, num_instances=2)
        passes = [(len(sampler), list(sampler)) for _ in range(3)]
        assert all(length == len(indices) for length, indices in passes)
        return [indices for _, indices in passes]

    first = epochs(1)
    assert epochs(1) == first and epochs(2) != first
    assert first[0] != first[1] and first[1] != first[2]


def test_stock_samplers_draw_as_without_us(toys, toy_root):
    data = ToySet(toy_root, verbose=False).train
    orders = []
    for _ in range(2):
        random.seed(0)
        np.random.seed(0)
        sampler = host.manager.build_train_sampler(data, "RandomIdentitySampler", batch_size=4, num_instances=2)
        orders.append(list(sampler))
        occplug.register()
    assert orders[0] == orders[1]
    assert type(sampler) is host.sub("data.sampler").RandomIdentitySampler


# ---- our real methods


@pytest.mark.parametrize("name", ["clip_reid_vit_tiny", pytest.param("clip_reid_vit_b16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("loss", ["softmax", "triplet"])
def test_torchreids_engine_trains_clip_reid(toys, toy_root, tmp_path, monkeypatch, loss, name):
    monkeypatch.undo()  # the real default config
    occplug.register()
    model = torchreid.models.build_model(name, num_classes=4, loss=loss, pretrained=False)
    height, width = model.backbone.image_size
    manager = toy_manager(toy_root, height=height, width=width)
    assert isinstance(model, model_module.TorchreidModel) and not hasattr(model, "prompts")
    before = copy.deepcopy(model.state_dict())
    engine = stock_engine(manager, model, host.ImageTripletEngine if loss == "triplet" else host.ImageSoftmaxEngine)
    engine.run(save_dir=str(tmp_path / "log"), max_epoch=1)
    after = model.state_dict()
    still = {key for key in before if torch.equal(before[key], after[key])}
    assert still == {key for key in before if key.endswith("norm.bias") and key.startswith("neck")}
    path = str(tmp_path / "log" / "model" / "model.pth.tar-1")
    extractor = torchreid.utils.FeatureExtractor(name, path, image_size=(height, width), device="cpu")
    images = torch.randn(2, 3, height, width)
    assert torch.equal(extractor(images), model.eval()(images))


def test_every_registered_model_builds_on_the_meta_device():
    builders = register._our_models()
    assert "clip_reid_rn50" in builders
    for name, builder in builders.items():
        with torch.device("meta"):
            model = builder(num_classes=4, loss="triplet", pretrained=False)
        assert isinstance(model, model_module.TorchreidModel), name
        assert any(parameter.requires_grad for parameter in model.parameters()), name


def test_a_method_may_have_no_torchreid_name():
    with entry(METHODS, "nameless", type("Nameless", (Method,), {})):
        assert not any(name.startswith("nameless") for name in register._our_models())


def test_modules_of_namespace_are_found_in_either_layout():
    assert host.sub("data.sampler").__name__ == f"{host.ROOT}.data.sampler"
    assert isinstance(host.sub("metrics.rank"), types.ModuleType)


@pytest.mark.parametrize("content", [{"state_dict": [1]}, {"state_dict": {"a": 3}}, {"conv1.weight": "text"}])
def test_initial_weights_that_are_no_tensors_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="a.pth: holds something else than tensors by name"):
        host.load_stock_weights(nn.Linear(2, 2), tmp_path / "a.pth")


def test_weights_of_another_backbone_are_no_success(registered_for_weights):
    package = Path(occplug.__file__).parent / "zoo/checkpoints"
    load = host.sub("utils").load_pretrained_weights
    plain = host.sub("models").build_model("clip_reid_vit_tiny", num_classes=150)
    load(plain, str(package / "clip_reid-vit_tiny-synthocc.safetensors"))
    hybrid = host.sub("models").build_model("dpl_reid_vit_tiny", num_classes=150)
    with pytest.raises(CheckpointError, match="it fills 0 of the 92 tensors of DPLReID on CLIPViT"):
        load(hybrid, str(package / "dpl_reid-vit_tiny-synthocc.safetensors"))


@pytest.fixture
def registered_for_weights():
    occplug.register()
    yield
    occplug.unregister()


def test_parts_read_from_a_file_are_not_compared_as_one_vector():
    method = build_method(default_config("profd", "clip_vit_tiny", ["backbone.weights", "none"]), 5, 3).eval()
    model = model_module.TorchreidModel(method, "triplet").eval()
    stored = torch.from_numpy(model(torch.randn(2, 3, 128, 64)).numpy())
    with pytest.raises(ConfigError, match="their method's distance is dist_metric='profd'"):
        packed_distances(stored, stored, "euclidean", lambda *given: 0, model)
    with pytest.raises(ConfigError, match="keep embeddings in files by Embedding.save"):
        packed_distances(stored, stored, "profd", lambda *given: 0)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("clip_reid_vit_tiny", "zoo://clip_reid/vit_tiny/synthocc"),
        ("osnet_x0_25", "zoo://torchreid/osnet_x0_25/synthocc"),
    ],
)
def test_feature_extractor_takes_weights_of_the_zoo(name, address):
    """What a test reads: the zoo's files hold no classifiers, nor necks behind the feature."""
    occplug.register()
    extractor = torchreid.utils.FeatureExtractor(name, address, image_size=(128, 64), device="cpu", verbose=False)
    expected, loaded = candidates([], [address], [])[0].weights.state, extractor.model.state_dict()
    same = [key for key in loaded if key in expected and torch.equal(loaded[key], expected[key].to(loaded[key].dtype))]
    others = set(loaded) - set(same)
    assert len(same) > 50 and all(re.search("^neck|classifier|num_batches_tracked", key) for key in others), others


def test_feature_extractor_fails_where_its_weights_are_not():
    occplug.register()

    def extractor(name, path):
        return torchreid.utils.FeatureExtractor(name, path, image_size=(128, 64), device="cpu", verbose=False)

    with pytest.raises(ConfigError, match="the nearest: clip_reid/vit_tiny/synthocc"):
        extractor("clip_reid_vit_tiny", "zoo://clip_reid/vit_tiny/synthoc")
    for name in ("clip_reid_vit_tiny", "osnet_x0_25"):
        with pytest.raises(CheckpointError, match="nowhere.pth: there is no such weight file"):
            extractor(name, "nowhere.pth")
    with pytest.raises(CheckpointError, match="of another model"):
        extractor("osnet_x0_25", "zoo://clip_reid/vit_tiny/synthocc")
