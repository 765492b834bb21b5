"""The mixing sheet: what its cells show, the printed statistics, and mistakes."""

import pytest
import torch
from PIL import Image

from occplug import build_method
from occplug.cli import main
from occplug.config import default_config, save_config
from occplug.data.manager import GeneratedDataManager
from occplug.engine import save_checkpoint
from occplug.reports import mixing

OPTIONS = ["backbone.weights", "none", "data.workers", 0, "method.transfer.select", "random", "train.batch_size", 8]


@pytest.fixture
def given(tmp_path, monkeypatch):
    """Arguments for a method on generated pictures in place of a data set."""
    monkeypatch.setattr(mixing, "DataManager", GeneratedDataManager)

    def make(name="dpmpp", *options):
        save_config(default_config(name, "clip_vit_tiny", [*OPTIONS, *options]), tmp_path / "c.yaml")
        return ["show-mixing", "--config-file", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "s.png")]

    return make


def test_the_sheet_of_an_untrained_method(given, tmp_path, capsys):
    assert main([*given(), "--images", "3"]) == 0
    printed = capsys.readouterr().out
    assert "prototype masks of 8 images: min 0.5000, mean 0.5000, max 0.5000, 0.0 % under 0.5" in printed
    assert "of 8 images have a candidate; saliency from 0." in printed
    assert "3 images, image, saliency, salient patches, candidate, mix, mask 0.50-0.50" in printed
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.format == "PNG" and picture.width > 600


def test_trained_weights_are_read_and_dpm_without_transfer_shows_masks_alone(given, tmp_path, capsys):
    arguments = given("dpm")
    cfg = default_config("dpm", "clip_vit_tiny", OPTIONS)
    method = build_method(cfg, 8, 4)
    torch.nn.init.constant_(method.metric.generator.linear.bias, -1.0)
    state = {"state_dict": method.state_dict(), "pids": list(range(8)), "cameras": [0, 1, 2, 3]}
    save_checkpoint(state, tmp_path / "w.pth")
    assert main([*arguments, "--weights", str(tmp_path / "w.pth")]) == 0
    printed = capsys.readouterr().out
    assert "mean 0.2689, max 0.2689, 100.0 % under 0.5" in printed  # sigmoid(-1)
    assert "8 images, image, mask 0.27-0.27" in printed and "candidate" not in printed


def test_the_cells_are_the_targets_candidates_and_mixes():
    cfg = default_config("dpmpp", "clip_vit_tiny", [*OPTIONS, "method.transfer.p_mix", 1.0])
    torch.manual_seed(3)
    method = build_method(cfg, 8, 4).eval()
    images = torch.rand(4, 3, 128, 64) * 2 - 1  # constants 0.5: pixels are x / 2 + 0.5
    saliency = (torch.arange(128)[None] % 16 < torch.tensor([4, 8, 12, 2])[:, None]).float()  # grid 16 x 8
    method.transfer.saliency = lambda x: saliency[: len(x)]
    titles, cells, _ = mixing._drawn(method, cfg, images, torch.zeros(4, dtype=torch.int64), 4)
    assert titles[:5] == ["image", "saliency", "salient patches", "candidate", "mix"] and cells.shape[:4] == (
        4,
        6,
        128,
        64,
    )
    shown = (images / 2 + 0.5).permute(0, 2, 3, 1)
    for (
        row
    ) in cells:  # each pixel of the mix is the target's where the candidate's patch is salient, else the candidate's
        target = next(i for i in range(4) if torch.allclose(row[0], shown[i], atol=1e-6))
        candidate = next(i for i in range(4) if torch.allclose(row[3], shown[i], atol=1e-6))
        assert candidate != target
        for y, x in ((0, 0), (5, 20), (5, 40), (9, 30), (127, 63), (100, 3)):
            own = saliency[candidate, y // 8 * 8 + x // 8] > 0.5
            assert torch.allclose(row[4, y, x], row[0 if own else 3, y, x], atol=1e-6)


def test_mixed_images_come_first_and_are_spread():
    mixed = torch.tensor([False, True, True, False, True, True, True])
    assert mixing._spread(mixed, 3).tolist() == [1, 4, 6]
    assert mixing._spread(mixed, 6).tolist() == [1, 2, 4, 5, 6, 0]
    assert mixing._spread(~mixed, 9).tolist() == [0, 3, 1, 2, 4, 5, 6]


def test_masks_fold_row_by_row():
    masks = torch.arange(10.0).repeat(2, 1)
    rows = mixing._folded(masks, (128, 64))
    assert rows.shape == (2, 5, 2) and torch.equal(rows[0].flatten(), masks[0])
    assert torch.equal(mixing._folded(masks[:, :9], (128, 64))[1].flatten(), torch.tensor([*range(9), 4.0]))


def test_mistakes_are_named(given, tmp_path, capsys):
    assert main([*given(), "--images", "0"]) == 2
    assert "--images is 0; it must be at least 1" in capsys.readouterr().err
    save_config(default_config("clip_reid", "clip_vit_tiny"), tmp_path / "c.yaml")
    call = ["show-mixing", "--config-file", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "s.png")]
    assert main(call) == 2
    assert (
        "clip_reid has neither prototype masks nor patch transfer here; dpm and dpmpp have" in capsys.readouterr().err
    )
    assert main(given("dpm", "method.mask", "none")) == 2
    assert "dpm has neither prototype masks nor patch transfer here" in capsys.readouterr().err
    assert not (tmp_path / "s.png").exists()
