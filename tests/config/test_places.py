"""Configs by path and by name, from a checkout, from another folder and from an installed package."""

import shutil
from pathlib import Path

import pytest

from occplug.config import find_config, load_config, places, shipped_configs
from occplug.errors import ConfigError

ROOT = Path(__file__).parents[2]
NAMES = [f"{folder}clip_reid_synthocc{ending}" for folder in ("", "configs/") for ending in ("", ".yaml")]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_by_its_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name).samefile(ROOT / "configs/clip_reid_synthocc.yaml")
    assert load_config(name) == load_config(ROOT / "configs/clip_reid_synthocc.yaml")


def test_the_users_file_comes_before_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for place in ("configs/clip_reid_synthocc.yaml", "clip_reid_synthocc.yaml"):  # the nearer one second
        Path(place).write_text("model: {name: clip_reid}\n")
        assert find_config("clip_reid_synthocc.yaml") == Path(place)
        assert find_config("configs/clip_reid_synthocc.yaml") == Path("configs/clip_reid_synthocc.yaml")


def test_a_base_by_its_name(tmp_path):
    beside = tmp_path / "base.yaml"
    beside.write_text("train: {seed: 7}\n")
    mine = tmp_path / "mine.yaml"
    mine.write_text("_base_: [clip_reid_synthocc, configs/_base_/rwoa.yaml, base.yaml]\n")
    cfg = load_config(mine)
    assert cfg.train.seed == 7 and cfg.data.sources == ["synthocc"] and "rwoa" in cfg.data.transforms


def test_an_installed_package_has_its_own(tmp_path, monkeypatch):
    package = tmp_path / "occplug"
    shutil.copytree(ROOT / "configs", package / "configs")
    monkeypatch.setattr(places, "__file__", str(package / "config" / "places.py"))
    assert shipped_configs() == package / "configs"
    monkeypatch.chdir(tmp_path)
    assert find_config("dpm_synthocc") == package / "configs/dpm_synthocc.yaml"
    assert find_config("ablations/dpm.yaml") == package / "configs/ablations/dpm.yaml"


def test_a_misspelt_name_gets_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="^clip_reid_synthoc: .*; the nearest is clip_reid_synthocc$"):
        find_config("clip_reid_synthoc")
    with pytest.raises(ConfigError, match="no such config file$"):
        find_config(tmp_path / "x.yaml")
