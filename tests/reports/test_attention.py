"""The attention sheet: stretched maps, one row an image, and mistakes."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
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
from occplug.errors import DataError
from occplug.registry import model_class
from occplug.reports import attention, sheets
from occplug.reports.figures import RIGHT, WRONG
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
    assert "3 queries of market1501, parts" in capsys.readouterr().out
    with Image.open(sheet) as picture:
        assert picture.format == "PNG" and 1800 < picture.width < 2200  # 7 inches
        assert picture.height / picture.width == pytest.approx(3 * 2 / 8, abs=0.08)  # 3 rows of 1 + 7 pictures, 2 : 1


def test_a_query_stands_beside_its_nearest_images_in_a_row_a_model(trained, tmp_path, capsys):
    """Frames are those of ranked galleries; a second model's row is named."""
    sheet = tmp_path / "sheet.svg"
    words = [*trained(), *trained(), "--titles", "one", "two", "--top", "3", "--images", "2"]
    for kind, name in (("gradcam", "Grad-CAM"), ("rollout", "rollout")):
        assert main(["show-attention", *words, "--map", kind, "--output", str(sheet)]) == 0, capsys.readouterr().err
        text = sheet.read_text()
        assert text.count("<image") == 2 * 2 * (2 + 3) and text.count(f"<!-- {name} -->") == 2 * 2
        assert text.count("<!-- one -->") == text.count("<!-- two -->") == 2
        right, wrong = (len(re.findall(rf"stroke: {frame['color'].lower()}", text)) / 4 for frame in (RIGHT, WRONG))
        assert right + wrong == 2 * 2 * 3 and right > 0


def test_a_model_beside_another_has_a_column(trained, tmp_path, capsys):
    sheet = tmp_path / "sheet.svg"
    words = [*trained(), *trained(), "--images", "2", "--output", str(sheet)]
    assert main(["show-attention", *words]) == 0, capsys.readouterr().err
    text = sheet.read_text()
    assert "2 queries of market1501, rollout" in capsys.readouterr().out
    assert text.count("<image") == 2 * (1 + 2) and "<!-- profd 1 -->" in text and "<!-- profd 2 -->" in text


def test_pictures_are_where_their_maps_are(trained):
    """A map that is high in one corner lights that corner."""
    picture, place = torch.full((1, 256, 128, 3), 0.5), torch.zeros(1, 1, 256, 128)
    place[..., :64, :32] = 1
    found = sheets.overlaid(picture, place)
    assert found.shape == (1, 1, 256, 128, 3) and float(found[..., :64, :32, :].mean()) > 0.7
    assert 0.3 < float(found[..., 64:, 32:, :].mean()) < 0.5


def test_mistakes_are_named(trained, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["show-attention", *trained("method.decoder=sea"), "--output", str(sheet)]) == 2
    assert "method.decoder 'sea' has no attention maps; hybrid, spa and wap do" in capsys.readouterr().err
    assert main(["show-attention", *trained(), "--output", str(sheet), "--images", "0"]) == 2
    assert "--images is 0; it must be at least 1" in capsys.readouterr().err
    for words, message in (
        (["--top", "3"], "--top: parts have several maps an image, and there is room for one; add --map rollout"),
        (["--top", "-1"], "--top is at least 0"),
        (["--target", "msmt17"], "profd has the targets market1501, not 'msmt17'; add -t msmt17"),
        (["--titles", "a", "b"], "--titles has 2 titles for 1 models"),
        (["--queries", "worst:x"], "--queries worst:x: give a number of queries from 1"),
    ):
        assert main(["show-attention", *trained(), "--output", str(sheet), *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["show-attention", *trained(), "--output", str(tmp_path / "s.gif")]) == 2
    assert "s.gif: a figure ends in .pdf, .svg, .png, .jpg" in capsys.readouterr().err
    assert not sheet.exists()


def test_exported_files_cannot_be_looked_into(trained, tmp_path, capsys):
    trained()
    assert main(["export", "--weights", str(tmp_path / "w.pth"), "--config-file", str(tmp_path / "c.yaml"),
                 "--output", str(tmp_path / "e.torchscript")]) == 0, capsys.readouterr().err  # fmt: skip
    assert (
        main(["show-attention", "--weights", str(tmp_path / "e.torchscript"), "--output", str(tmp_path / "s.png")]) == 2
    )
    assert "an exported file gives embeddings and cannot be looked into" in capsys.readouterr().err


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
        assert "2 queries of synthocc, parts" in capsys.readouterr().out


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


def test_a_query_without_a_gallery_is_not_drawn_and_is_named_where_asked_for():
    ranked = SimpleNamespace(nearest=np.array([[3], [-1], [0], [2]]), query_paths=["a", "b", "c", "d"])
    assert attention._spread(4, 4, [ranked]) == [0, 2, 3] and attention._spread(4, 4, []) == [0, 1, 2, 3]
    attention._check_neighbours([0, 2], [ranked])
    with pytest.raises(DataError, match="b has no gallery to compare with"):
        attention._check_neighbours([0, 1], [ranked])
    with pytest.raises(DataError, match="no query has a gallery"):
        attention._check_neighbours([], [ranked])
