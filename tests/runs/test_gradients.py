"""Gradients of single terms: against a backward pass of each alone, and by hand where the answer is known."""

import json

import pytest
import torch
import torch.nn.functional as F

from occplug import build_method
from occplug.cli import main
from occplug.config import default_config
from occplug.engine.freezing import close_layers
from occplug.errors import ConfigError
from occplug.method import parameter_groups
from occplug.runs.gradients import gradient_report, scale_texts, term_gradients

OPTIONS = ["data.height", 32, "data.width", 16, "backbone.weights", "none"]


def opened(name, *options, stage=-1):
    """A tiny method, and one of its stages as the engine opens it."""
    torch.manual_seed(1)
    method = build_method(default_config(name, "clip_vit_tiny", [*OPTIONS, *options]), 5, 3)
    chosen = method.stages()[stage]
    parameter_groups(method, chosen.groups)
    chosen.prepare(None, torch.device("cpu"))
    method.train()
    close_layers(method)
    return method, chosen


def batch(n=8):
    return {"img": torch.randn(n, 3, 32, 16), "pid": torch.arange(n) // 2 % 5, "camid": torch.arange(n) % 3, "epoch": 1}


def test_norms_are_those_of_a_backward_pass_of_each_term_alone():
    method, stage = opened("clip_reid")
    images = batch()
    found = term_gradients(method, stage, images)
    assert found.keys() == stage.weights.keys()
    for name, figures in found.items():
        method.zero_grad()
        (stage.weights[name] * stage.losses(images)[name]).backward()
        tower = [p.grad for n, p in method.named_parameters() if n.startswith("backbone.") and p.grad is not None]
        rest = [p.grad for n, p in method.named_parameters() if not n.startswith("backbone.") and p.grad is not None]
        assert figures.tower == pytest.approx(torch.cat([g.flatten() for g in tower]).norm().item(), rel=1e-3)
        expected = torch.cat([g.flatten() for g in rest]).norm().item() if rest else 0.0
        assert figures.rest == pytest.approx(expected, rel=1e-3)
        assert figures.touched == 1
    assert found["loss_tri"].spread is None and found["loss_i2t"].rest == 0


def test_texts_of_another_size_give_logits_of_that_size():
    found = {}
    for factor in (1.0, 3.0):
        torch.manual_seed(1)
        method = build_method(default_config("clip_reid", "clip_vit_tiny", OPTIONS), 5, 3)
        if factor != 1:
            scale_texts(method, factor)
        (stage,) = [stage for stage in method.stages() if stage.name == "stage2"]
        parameter_groups(method, stage.groups)
        stage.prepare(None, torch.device("cpu"))
        torch.manual_seed(2)
        found[factor] = term_gradients(method.eval(), stage, batch())
    assert found[3.0]["loss_i2t"].spread == pytest.approx(3 * found[1.0]["loss_i2t"].spread, rel=1e-3)
    assert found[3.0]["loss_tri"].tower == pytest.approx(found[1.0]["loss_tri"].tower, rel=1e-3)
    with pytest.raises(ConfigError, match="--text-scale is 0; it must be above 0"):
        scale_texts(method, 0)
    method.text = None
    with pytest.raises(ConfigError, match="this one has no text tower"):
        scale_texts(method, 2.0)


def test_the_gradient_on_the_projected_feature_and_the_logits_by_hand():
    method, stage = opened("clip_reid")
    images = batch()
    method.text_features_by_kind = {"": torch.randn(5, 96)}
    figures = term_gradients(method, stage, images)["loss_i2t"]
    image = method.backbone(images["img"], images["camid"]).projected.detach()
    logits = image @ method.text_features.T
    p = logits.softmax(dim=1)
    target = torch.full((8, 5), 0.1 / 5).scatter_add(1, images["pid"][:, None], torch.full((8, 1), 0.9))
    expected = ((p - target) @ method.text_features / 8).norm().item()  # of a smoothed cross entropy
    assert figures.levels["projected"] == pytest.approx(stage.weights["loss_i2t"] * expected, rel=1e-3)
    assert figures.spread == pytest.approx(logits.std(dim=1).mean().item(), rel=1e-4)
    assert figures.label == pytest.approx(p.gather(1, images["pid"][:, None]).mean().item(), rel=1e-3)


def test_the_images_a_term_touches_are_counted():
    method, stage = opened("dpl_reid", "method.stage2.i2t", "by_image", "data.transforms", ["rwoa"])
    images = batch()
    images["occlusion"] = torch.zeros(8, 1, 32, 16, dtype=torch.uint8)
    images["occlusion"][[1, 5], 0, 3, 4] = 255
    method.text_features_by_kind = {kind: torch.randn(5, 96) for kind in ("full", "occ")}
    found = term_gradients(method, stage, images)
    assert found["loss_i2t_occ"].touched == 2 / 8 and found["loss_i2t_full"].touched == 6 / 8
    assert found["loss_id"].touched == 1


def test_nothing_of_torch_or_the_method_stays_changed():
    method, stage = opened("clip_reid")
    before, hooks = F.cross_entropy, len(method.backbone._forward_hooks)
    term_gradients(method, stage, batch())
    assert F.cross_entropy is before and len(method.backbone._forward_hooks) == hooks
    assert all(parameter.grad is None for parameter in method.parameters())


class Data:
    """Two training batches."""

    def __init__(self):
        torch.manual_seed(4)
        self.train_loader = [batch(), batch(), None]


def test_a_report_is_the_mean_over_batches_and_says_each_terms_share():
    method, stage = opened("clip_reid", "method.prompts", False)
    data = Data()
    each = [term_gradients(method, stage, dict(images)) for images in data.train_loader[:2]]
    report = gradient_report(method, data, 2)
    assert report["stage"] == "stage2" and report["batches"] == 2
    terms = report["terms"]
    assert terms["loss_tri"]["value"] == pytest.approx(sum(f["loss_tri"].value for f in each) / 2, rel=1e-3)
    assert sum(term["share"] for term in terms.values()) == pytest.approx(1)


def test_what_cannot_be_looked_at_is_said():
    method, _ = opened("clip_reid")
    with pytest.raises(ConfigError, match="--stage is 'stage3'; the stages are stage1, stage2"):
        gradient_report(method, Data(), 1, "stage3")
    with pytest.raises(ConfigError, match="--batches is 0; it must be at least 1"):
        gradient_report(method, Data(), 0)


@pytest.mark.parametrize(
    "name, stage", [("profd_synthocc", ""), ("dpm_spt_synthocc", "saliency"), ("ag_reid_synthocc", "")]
)
def test_the_command_on_generated_pictures(name, stage, tmp_path, capsys):
    words = ["gradients", "--config-file", f"configs/{name}.yaml", "--generated", "--batches", "1"]
    words += ["--output", str(tmp_path / "g.json"), "train.batch_size", "8", "data.workers", "0"]
    assert main([*words[:3], *(["--stage", stage] if stage else []), *words[3:]]) == 0
    report = json.loads((tmp_path / "g.json").read_text())
    terms = report["terms"]
    assert all(term["tower"] + term["rest"] > 0 for term in terms.values() if term["weight"])
    assert any(term["tower"] > 0 for term in terms.values())
    out = capsys.readouterr().out
    assert f"{report['stage']}: 1 batches of 8" in out and all(term in out for term in report["terms"])
