"""The pages `docs/own_method.md` and `docs/own_backbone.md`, done as they say: in a folder of the user's, and here."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import occplug
from occplug.config import default_config
from occplug.datasets.synthocc import build
from occplug.errors import ConfigError
from occplug.registry import BACKBONES, LOSSES, METHODS, build_part
from tests.contract.pages import BLOCK, DOCS, files_of, write

ROOT = Path(__file__).parents[2]
SHORT = ["synthocc.size", "tiny", "data.workers", 0, "train.batch_size", 16]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    build(folder, "tiny", workers=1, progress=False)
    return folder


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A folder with the pages' files, nowhere near occplug; what they register is taken out again."""
    write("own_method.md", tmp_path)
    write("own_backbone.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    entries = {registry: dict(registry.module_dict) for registry in (METHODS, LOSSES, BACKBONES)}
    yield tmp_path
    for registry, before in entries.items():
        registry._module_dict.clear()
        registry._module_dict.update(before)
    for name in ("toy", "my_loss", "my_backbone", "broken"):
        sys.modules.pop(name, None)


def test_the_pages_name_the_files_they_speak_of():
    method = files_of("own_method.md")
    assert {"toy.py", "toy_synthocc.yaml", "test_toy.py", "my_loss.py", "clip_reid_my_loss.yaml"} == set(method)
    assert set(files_of("own_backbone.md")) == {"my_backbone.py", "clip_reid_small_conv.yaml"}


def test_a_method_of_ones_own_folder_trains_and_is_tested(user, root):
    options = [*SHORT, "data.root", str(root), "method.train.epochs", 1]
    (python,) = [text for kind, text in BLOCK.findall((DOCS / "own_method.md").read_text()) if "metrics =" in text]
    there = {"options": options}
    exec(compile(python, "own_method.md", "exec"), there)  # noqa: S102  the page's lines
    assert there["metrics"]["method"] == "toy" and [s["name"] for s in there["metrics"]["stages"]] == ["train"]
    assert there["again"]["targets"] == there["metrics"]["targets"]
    # its own test, and what a run's folder says of it, from anywhere
    spec = importlib.util.spec_from_file_location("test_toy", user / "test_toy.py")
    spec.loader.exec_module(test := importlib.util.module_from_spec(spec))
    test.test_alpha_scales_the_logits()
    assert occplug.load_config(user / "log/toy_synthocc/config.yaml").custom_imports == [str(user / "toy.py")]


def test_its_keys_are_checked_as_declared_and_misspelt_ones_named(user):
    assert occplug.load_config("toy_synthocc.yaml", ["method.alpha", 7]).method.alpha == 7.0
    for options, message in {
        ("method.alpha", 0): "method.alpha is 0.0; it must be above 0",
        ("method.neck", "both"): "method.neck is 'both'; there are: before, after",
        ("method.alhpa", 1): "there is no key 'method.alhpa'; the nearest is 'method.alpha'",
        ("model.name", "tyo"): "model.name is 'tyo', neither a method nor a torchreid model; the nearest is 'toy'",
    }.items():
        with pytest.raises(ConfigError, match=re.escape(message)):
            occplug.load_config("toy_synthocc.yaml", list(options))


def test_a_loss_of_ones_own_is_named_in_a_yaml(user):
    cfg = occplug.load_config("clip_reid_my_loss.yaml", ["backbone.weights", "none", "method.prompts", False])
    assert dict(cfg.method.stage2.triplet) == {"type": "centre_pull", "scale": 4.0}
    method = occplug.build_method(cfg, 4, 2)
    assert (type(method.triplet).__name__, method.triplet.scale, method.triplet.margin) == ("CentrePull", 4.0, 0.1)
    batch = {"img": torch.randn(4, 3, 128, 64), "pid": torch.tensor([0, 0, 1, 1]), "camid": torch.zeros(4).long()}
    (stage,) = method.stages()
    found = stage.losses(batch)["loss_tri"]
    expected = sum(method.triplet(feature, batch["pid"]) for feature in method.outputs(batch["img"], batch["camid"])[1])
    torch.testing.assert_close(found, expected)
    found.backward()
    # a method declares such a part as the page's last block does
    (block,) = [text for kind, text in BLOCK.findall((DOCS / "own_method.md").read_text()) if "class Other" in text]
    there = {"Method": occplug.method.Method, "LOSSES": LOSSES, "build_part": build_part}
    exec(block, there)  # noqa: S102
    assert there["Other"].parts == {"train.triplet": LOSSES}
    # what it resolves to reads again, and the other methods take it, too
    file = user / "saved.yaml"
    occplug.config.save_config(cfg, file)
    assert occplug.load_config(file) == cfg
    for name in ("profd", "dpm", "dpmpp"):
        tiny = ["backbone.weights", "none", "method.train.triplet.type", "centre_pull"]
        other = default_config(name, "clip_vit_tiny", tiny)
        built = occplug.build_method(other, 4, 2)
        assert "CentrePull" in {type(module).__name__ for module in built.modules()}, name


TRIPLET = "method.stage2.triplet"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "type",
            "centre_pul",
            "triplet.type: no loss is called 'centre_pul' (did you mean 'centre_pull'?); there are:",
        ),
        ("scal", 1.0, f"there is no key '{TRIPLET}.scal'; the nearest is '{TRIPLET}.scale'"),
        ("scale", "big", f"{TRIPLET}.scale is 'big' (str), expected a finite number"),
    ],
)
def test_a_mistake_about_a_part_is_named(user, key, value, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        occplug.load_config("clip_reid_my_loss.yaml", [f"{TRIPLET}.{key}", value])


def test_a_backbone_of_ones_own_trains_in_a_method_that_needs_no_more(user, root):
    options = [*SHORT, "data.root", str(root), "method.stage2.epochs", 1]
    cfg = occplug.load_config("clip_reid_small_conv.yaml", options)
    assert cfg.backbone.small_conv.width == 48 and cfg.backbone.small_conv.depth == 3
    metrics = occplug.train(cfg)
    assert metrics["stages"][0]["name"] == "stage2"
    state = torch.load("log/clip_reid_small_conv/checkpoints/stage2.pth", weights_only=True)["state_dict"]
    assert state["backbone.layers.0.0.weight"].shape == (48, 3, 3, 3)
    with pytest.raises(ConfigError, match=r"backbone.small_conv.depth is 9; it must be from 1 to 5"):
        occplug.load_config("clip_reid_small_conv.yaml", ["backbone.small_conv.depth", 9])
    with pytest.raises(ConfigError, match="backbone.name is 'small_conv', and dpm works on"):
        default_config("dpm", "small_conv", ["backbone.weights", "none"])


def test_imports_that_fail_name_the_file_and_the_cause(user):
    (user / "broken.py").write_text("import not_there\n")
    (user / "json.py").write_text("")
    for name, message in {
        "none.py": "custom_imports names .*none.py, and there is no such file",
        "broken.py": r"broken.py cannot be imported: ModuleNotFoundError: No module named 'not_there'",
        "no_module": "no_module cannot be imported: ModuleNotFoundError",
        "json.py": "has the name of another module, json; rename the file",
        "[3]": "expected a list of modules or .py files",
    }.items():
        listed = name if name.startswith("[") else f"[{name}]"
        (user / "c.yaml").write_text(f"custom_imports: {listed}\nmodel: {{name: resnet50}}\n")
        with pytest.raises(ConfigError, match=message):
            occplug.load_config("c.yaml")
    assert json.loads("1") == 1


# ---------------------------------------------------------------------- into occplug itself

IGNORED = shutil.ignore_patterns("__pycache__", "checkpoints", "*.part")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what of this repository a new method could have to do with, with the method's files in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("occplug", "configs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=IGNORED)
    for name in ("model_zoo.md", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    before = contents(folder)
    files = files_of("own_method.md")
    (folder / "occplug/methods/toy.py").write_text(files["toy.py"])
    (folder / "configs/toy_synthocc.yaml").write_text(
        files["toy_synthocc.yaml"].replace("custom_imports: [toy.py]\n", "")
    )
    (folder / "tests/methods/test_toy.py").write_text(files["test_toy.py"])
    return folder, before


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }


def python(folder, *words):
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
    environment["PYTHONPATH"] = "."
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=environment)


def test_one_file_one_config_one_test_and_one_zoo_row(checkout):
    folder, before = checkout
    done = python(folder, "-m", "occplug", "zoo", "add", "--config-file", "configs/toy_synthocc.yaml")
    assert done.returncode == 0 and "toy/vit_tiny/synthocc: added" in done.stdout, done.stderr
    after = contents(folder)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {
        "occplug/methods/toy.py", "configs/toy_synthocc.yaml", "tests/methods/test_toy.py", "occplug/zoo/index.yaml"
    }  # fmt: skip
    removed = set(before["occplug/zoo/index.yaml"].splitlines()) - set(after["occplug/zoo/index.yaml"].splitlines())
    assert removed == set()
    tests = [
        "tests/methods/test_toy.py",
        "tests/contract/test_methods.py",
        "tests/config/test_configs.py",
        "tests/zoo/test_index.py::test_every_config_has_the_entry_its_header_makes",
        "tests/zoo/test_index.py::test_the_file_has_its_one_form",
    ]
    words = "toy or entry or form or declarations or twin or same_run"
    run = python(
        folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", "-k", words, *tests
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= 15
