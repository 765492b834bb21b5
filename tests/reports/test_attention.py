"""The attention sheet: stretched maps, one row an image, and mistakes."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import occplug
from occplug import build_method
from occplug.backbones.tower import MEAN_CAMERA
from occplug.cli import main
from occplug.config import default_config, resolved_yaml, save_config
from occplug.data.manager import DataManager, GeneratedDataManager
from occplug.engine import load_checkpoint, save_checkpoint
from occplug.registry import model_class
from occplug.reports import attention, sheets
from tests.data.test_manager import SMALL, market

EIGHT = ["method.parts", "eight", "masks.scheme", "eight"]


def test_each_map_is_stretched_and_a_flat_one_is_zero():
    maps = torch.rand(2, 3, 4, 2)
    maps[1, 2] = 0.125
    found = sheets.to_unit_range(maps)
    for b in range(2):
        for r in range(3):
            low, high = float(maps[b, r].min()), float(maps[b, r].max())
            for value, expected in zip(found[b, r].flatten().tolist(), maps[b, r].flatten().tolist()):
                assert value == pytest.approx((expected - low) / (high - low) if high > low else 0.0, abs=1e-5)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A config and a checkpoint, and generated pictures in place of a data set."""
    monkeypatch.setattr(attention, "DataManager", GeneratedDataManager)

    def make(*options):
        opts = ["backbone.weights", "none", "data.workers", 0, *options]
        cfg = default_config("profd", "clip_vit_tiny", opts)
        save_config(cfg, tmp_path / "c.yaml")
        state = {"state_dict": build_method(cfg, 8, 4).state_dict(), "pids": list(range(8)), "cameras": [0, 1, 2, 3]}
        save_checkpoint(state, tmp_path / "w.pth")
        return ["--config-file", str(tmp_path / "c.yaml"), "--weights", str(tmp_path / "w.pth")]

    return make


def test_the_sheet_is_written(trained, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["show-attention", *trained(), "--output", str(sheet), "--images", "3"]) == 0
    assert "3 images, 7 maps each" in capsys.readouterr().out
    with Image.open(sheet) as picture:
        assert picture.format == "PNG" and picture.width > picture.height > 100


def test_mistakes_are_named(trained, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["show-attention", *trained("method.decoder=sea"), "--output", str(sheet)]) == 2
    assert "method.decoder 'sea' has no attention maps; hybrid, spa and wap do" in capsys.readouterr().err
    assert main(["show-attention", *trained(), "--output", str(sheet), "--images", "0"]) == 2
    assert "--images is 0; it must be at least 1" in capsys.readouterr().err
    save_config(default_config("clip_reid", "clip_vit_tiny"), tmp_path / "c.yaml")
    arguments = ["--config-file", str(tmp_path / "c.yaml"), "--weights", str(tmp_path / "w.pth")]
    assert main(["show-attention", *arguments, "--output", str(sheet)]) == 2
    assert "clip_reid has no attention maps of parts; profd has" in capsys.readouterr().err
    assert not sheet.exists()


def test_another_grouping_than_the_checkpoints_is_named(trained, tmp_path, capsys):
    arguments = trained()
    assert main(["show-attention", *arguments, "--output", str(tmp_path / "s.png"), *EIGHT]) == 2
    message = capsys.readouterr().err
    assert (
        "w.pth does not fit ProFD: it was trained with another grouping of the body into parts (method.parts)"
        in message
    )


def test_a_checkpoint_is_tested_and_drawn_without_masks(tmp_path, capsys):
    """Masks teach; whoever has just the test images and the weights needs none."""
    opts = ["backbone.weights", "none", "data.root", str(market(tmp_path)), "data.sources", ["occluded_duke"]]
    opts += ["data.targets", ["occluded_duke"], "data.save_dir", str(tmp_path / "log"), *SMALL]
    cfg = default_config("profd", "clip_vit_tiny", opts)
    save_config(cfg, tmp_path / "c.yaml")
    pids = list(range(len(DataManager(cfg, trains=False, sources=True).pids)))
    state = {"state_dict": build_method(cfg, len(pids), 4).state_dict(), "pids": pids, "cameras": [0, 1, 2, 3]}
    save_checkpoint({**state, "config": resolved_yaml(cfg)}, tmp_path / "w.pth")
    arguments = ["--config-file", str(tmp_path / "c.yaml"), "--weights", str(tmp_path / "w.pth")]
    assert main(["test", *arguments]) == 0, capsys.readouterr().err
    assert (tmp_path / "log/test/metrics.json").exists()
    assert main(["show-attention", *arguments, "--output", str(tmp_path / "s.png"), "--images", "2"]) == 0
    assert main(["train", "--config-file", str(tmp_path / "c.yaml")]) == 2
    assert "have no part masks" in capsys.readouterr().err


def test_small_files_of_the_zoo_bring_all_it_takes(trained, tmp_path, capsys):
    trained()
    package = Path(occplug.__file__).parent / "zoo/checkpoints/profd-vit_tiny-synthocc.safetensors"
    for weights in ("zoo://profd/vit_tiny/synthocc", str(package)):
        arguments = ["--weights", weights, "--output", str(tmp_path / "s.png"), "--images", "2"]
        assert main(["show-attention", *arguments]) == 0, capsys.readouterr().err
        assert "2 images, 7 maps each" in capsys.readouterr().out


def test_cameras_of_a_second_source_are_given_by_their_rows(trained, tmp_path, monkeypatch):
    """Two of four rows are another set's: generated queries are of camera 0, which is row 2 here, or the mean row."""
    arguments = trained("backbone.sie_camera", True, "data.targets", ["synthocc"])
    given = []

    def attention_maps(method, images, camids):
        given.append(camids.tolist())
        return ["part"], torch.rand(len(images), 1, 4, 2)

    monkeypatch.setattr(model_class("profd"), "attention_maps", attention_maps)
    state = load_checkpoint(tmp_path / "w.pth")
    for rows in ({"market1501": (0, 2), "synthocc": (2, 2)}, {"market1501": (0, 2), "msmt17": (2, 2)}):
        save_checkpoint({**state, "camera_rows": rows}, tmp_path / "w.pth")
        assert main(["show-attention", *arguments, "--output", str(tmp_path / "s.png"), "--images", "2"]) == 0
    assert given == [[2, 2], [MEAN_CAMERA] * 2]
