"""Heads and patches that are alike: by hand, on a zoo model, and mistakes."""

import json

import pytest
import torch

from occplug.backbones.tower import TransformerTower
from occplug.cli import main
from occplug.errors import ConfigError
from occplug.reports import heads
from occplug.reports.heads import HeadFigures, draw_heads, head_correlation, patch_similarity
from occplug.runs.candidates import candidates


def test_heads_that_look_at_the_same_places_correlate():
    scores = torch.tensor([[[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, -3.0, 0.0]]])
    assert torch.allclose(head_correlation(scores), torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    both = torch.cat([scores, -scores.roll(1, dims=1)])
    by_hand = sum(torch.corrcoef(torch.cat([s, -s], dim=1)) for s in both) / 2  # rows of mean 0: correlation is cosine
    assert torch.allclose(head_correlation(both), by_hand, atol=1e-6)


def test_the_most_alike_patch_counts_and_not_the_patch_itself():
    patches = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]])
    assert patch_similarity(patches) == pytest.approx((0 + 0 + 0) / 3)
    assert patch_similarity(torch.tensor([[[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]])) == pytest.approx(0.5**0.5)
    assert patch_similarity(torch.ones(2, 5, 3)) == pytest.approx(1)


def test_figures_are_equal_every_time_and_endings_are_checked(tmp_path):
    models = [HeadFigures(title, torch.eye(4), [0.5, 0.7]) for title in ("one", "two")]
    first, again = (draw_heads(models, tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == again and b">two<" in first and models[0].mean_correlation == 0
    with pytest.raises(ConfigError, match=r"a.gif: a figure ends in .pdf, .svg, .png, .jpg"):
        draw_heads(models, tmp_path / "a.gif")
    with pytest.raises(ConfigError, match="6 models are given; a figure holds 5"):
        draw_heads(models * 3, tmp_path / "a.svg")


def test_the_command_draws_and_writes_numbers(tmp_path, capsys):
    words = ["show-heads", "zoo://clip_reid/vit_tiny/synthocc", "--root", str(tmp_path / "data"), "--images", "2"]
    words += ["--figure", str(tmp_path / "h.svg"), "--output", str(tmp_path / "h.json")]
    assert main([*words, "synthocc.size", "tiny", "data.workers", "0"]) == 0
    told = json.loads((tmp_path / "h.json").read_text())["clip_reid"]
    assert len(told["patch_similarity"]) == 6 and all(0 < value <= 1 for value in told["patch_similarity"])
    heads = torch.tensor(told["head_correlation"])
    assert heads.shape == (4, 4) and torch.allclose(heads.diagonal(), torch.ones(4), atol=1e-5)
    assert (tmp_path / "h.svg").stat().st_size > 1000
    assert main([words[0], words[1], *words[1:], "synthocc.size", "tiny", "data.workers", "0"]) == 0
    assert list(json.loads((tmp_path / "h.json").read_text())) == ["clip_reid 1", "clip_reid 2"]
    assert main([*words, "--titles", "a", "b"]) == 2
    assert "--titles has 2 titles for 1 models; give one each" in capsys.readouterr().err


def test_cameras_go_into_the_tower_as_in_a_test(tmp_path, monkeypatch):
    seen = []
    forward = TransformerTower.forward
    monkeypatch.setattr(heads, "cameras_of", lambda candidate, target: lambda camids: camids + 7)
    monkeypatch.setattr(
        TransformerTower,
        "forward",
        lambda self, images, camids=None, **wanted: seen.append(camids) or forward(self, images, **wanted),
    )
    options = ["data.root", str(tmp_path), "synthocc.size", "tiny", "data.workers", 0]
    (model,) = candidates([], ["zoo://clip_reid/vit_tiny/synthocc"], options)
    heads.head_figures(model, "a", 2)
    assert seen[0].min() >= 7
