"""Gradients of single terms: against a backward pass of each alone, and by hand where the answer is known."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from occplug import build_method
from occplug.cli import main
from occplug.cli.gradients import _table
from occplug.config import default_config
from occplug.engine.freezing import close_layers
from occplug.errors import ConfigError
from occplug.losses import IgnoringCrossEntropy, SupCon
from occplug.method import Stage, parameter_groups
from occplug.runs.gradients import gradient_report, scale_texts, term_gradients

OPTIONS = ["data.height", 32, "data.width", 16, "backbone.weights", "none"]
SPLIT = ["data.transforms", ["rwoa"], "method.stage1.pairing", "split"]
WIDE = ["data.width", 32]  # masks of DPM need four columns of patches


def opened(name, *options, stage=-1):
    """A tiny method, and one of its stages as the engine opens it."""
    torch.manual_seed(1)
    method = build_method(default_config(name, "clip_vit_tiny", [*OPTIONS, *options]), 5, 3)
    chosen = method.stages()[stage]
    parameter_groups(method, chosen.groups)
    if chosen.loader is None:  # a stage with a loader of its own prepares features of images, which `cached` makes up
        chosen.prepare(None, torch.device("cpu"))
    method.train()
    close_layers(method)
    return method, chosen


def batch(n=8, width=16):
    labels, cameras = torch.arange(n) // 2 % 5, torch.arange(n) % 3
    return {"img": torch.randn(n, 3, 32, width), "pid": labels, "camid": cameras, "epoch": 1}


def cached(n=8, width=96):
    """A batch of a first stage, in which three images have an occluded copy."""
    labels, occluded = torch.arange(n) // 2 % 5, torch.arange(n) % 3 == 1
    return {"feature": torch.randn(n, width), "feature_occ": torch.randn(n, width), "pid": labels, "occluded": occluded}


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


def nudged(values, row, by=1e-2):
    """`values`, a dataclass or dict with tensors of images, with noise on the image `row`."""
    noise = torch.Generator().manual_seed(row)
    old = values if isinstance(values, dict) else vars(values)
    new = {}
    for name, value in old.items():
        new[name] = nudged(value, row) if isinstance(value, dict) else value
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1:
            new[name] = value.clone()
            new[name][row] += by * torch.randn(value[row].shape, generator=noise)
    return new if isinstance(values, dict) else type(values)(**new)


def reached_by_hand(method, stage, images):
    """Term -> share of the images without whose outputs (or cached features) as they are its value is another."""

    def values(row=None):
        backbones = [module for name, module in method.named_modules() if name.split(".")[-1] == "backbone"]
        hooks = []
        if row is not None and "img" in images:
            nudge = lambda module, args, out: nudged(out, row)  # noqa: E731
            hooks = [backbone.register_forward_hook(nudge) for backbone in backbones]
        given = nudged(images, row) if row is not None and "img" not in images else dict(images)
        torch.manual_seed(3)
        found = {name: loss.item() for name, loss in stage.losses(given).items()}
        for hook in hooks:
            hook.remove()
        return found

    plain, count = values(), len(images["pid"])
    others = [values(row) for row in range(count)]
    return {name: sum(other[name] != plain[name] for other in others) / count for name in plain}


@pytest.mark.parametrize(
    "name, options, stage, expected",
    [
        ("dpm", WIDE, 0, {"loss_hem": 1, "loss_id": 1, "loss_mask": 1}),
        ("dpmpp", WIDE, -1, {"loss_hem": 1, "loss_coarse": 1}),
        ("dpm", [*WIDE, "method.spt", True], 0, {"loss_budget": 1, "loss_keep": 1, "loss_id": 1}),
        ("clip_reid", [], 0, {"loss_i2t": 1, "loss_t2i": 1}),
        ("ag_reid", [], 0, {"loss_i2t": 1, "loss_attr": 1}),
        ("dpl_reid", SPLIT, 0, {"loss_i2t_occ": 3 / 8, "loss_t2i_full": 5 / 8}),
    ],
)
def test_the_images_a_term_reaches_are_those_whose_outputs_change_it(name, options, stage, expected):
    method, chosen = opened(name, *options, stage=stage)
    images = cached() if chosen.loader else batch(width=32)
    if name == "dpmpp":
        method.text_features = torch.randn(5, 96)
    torch.manual_seed(3)
    found = term_gradients(method, chosen, dict(images))
    by_hand = reached_by_hand(method, chosen, images)
    for term, share in expected.items():
        assert found[term].touched == by_hand[term] == share, term


def test_a_gradient_on_a_block_is_what_a_term_takes_from_it_itself():
    method, stage = opened("dpm", *WIDE)
    images, blocks = batch(width=32), []
    for parameter in method.metric.generator.parameters():  # it starts as a mask that does not depend on the blocks
        nn.init.normal_(parameter, std=0.1)

    def take_off(module, args, output):
        output.blocks = {number: x.detach().requires_grad_() for number, x in output.blocks.items()}
        blocks.extend(output.blocks.values())

    found = term_gradients(method, stage, images)
    hook = method.backbone.register_forward_hook(take_off)
    (stage.weights["loss_mask"] * stage.losses(images)["loss_mask"]).backward()
    hook.remove()
    expected = torch.cat([x.grad.flatten() for x in blocks]).norm().item()
    assert expected > 0
    assert found["loss_mask"].levels["blocks"] == pytest.approx(expected, rel=1e-3)
    assert [term for term, figures in found.items() if "blocks" in figures.levels] == ["loss_mask"]
    assert found["loss_hem"].levels.keys() == {"class_scores"}


def figures_of(loss, of_images=True):
    """Of one term, `loss` of the products [4, 6] of a trained matrix with the batch's images, or of the matrix."""
    torch.manual_seed(5)
    method = nn.Linear(6, 6)

    def losses(given):
        return {"loss": loss(method(given["x"]), given["pid"]) if of_images else loss(method.weight)}

    stage = Stage("s", 1, [], losses, {"loss": 2.0}, lambda epoch: 1.0, torch.optim.SGD)
    given = {"x": torch.randn(4, 6), "pid": torch.tensor([0, 3, 3, 5])}
    return term_gradients(method, stage, given)["loss"], method(given["x"]).detach(), given["pid"]


ALL = torch.tensor([-1, -1, -1, -1])


@pytest.mark.parametrize(
    "loss, ignored",
    [
        (lambda scores, y: F.cross_entropy(scores, y, label_smoothing=0.1), ALL),
        (lambda scores, y: F.cross_entropy(input=scores, target=y), ALL),
        (lambda scores, y: IgnoringCrossEntropy(0.1)(scores, y), ALL),
        (lambda scores, y: IgnoringCrossEntropy()(scores, y, torch.tensor([1, -1, 4, 0])), torch.tensor([1, -1, 4, 0])),
        (lambda scores, y: SupCon()(scores, torch.eye(6), y, torch.arange(6)), ALL),
    ],
)
def test_logits_of_every_loss_over_classes_by_hand(loss, ignored):
    figures, scores, labels = figures_of(loss)
    rows = [[v for c, v in enumerate(row.tolist()) if c != skip] for row, skip in zip(scores, ignored.tolist())]
    spread = sum(torch.tensor(row).std().item() for row in rows) / 4
    weights = [sum(math.exp(v) for v in row) for row in rows]
    label = sum(math.exp(scores[i, labels[i]]) / weights[i] for i in range(4)) / 4
    assert figures.spread == pytest.approx(spread, rel=1e-4)
    assert figures.label == pytest.approx(label, rel=1e-4)


def test_a_contrast_counts_all_columns_of_a_label_and_no_row_without_one():
    columns = torch.tensor([0, 3, 3, 9, 9, 9])
    figures, scores, _ = figures_of(lambda scores, y: SupCon()(scores, torch.eye(6), y, columns))
    p = scores.softmax(dim=1)
    expected = (p[0, 0] + p[1, 1:3].sum() + p[2, 1:3].sum()) / 3  # label 5 has no column
    assert figures.label == pytest.approx(expected.item(), rel=1e-4)


def test_a_term_whose_images_cannot_be_seen_has_no_share_and_one_without_gradient_has_0():
    assert figures_of(lambda weight: weight.square().sum(), of_images=False)[0].touched is None
    assert figures_of(lambda weight: 0 * weight.sum(), of_images=False)[0].touched == 0
    assert figures_of(lambda weight: torch.zeros(()), of_images=False)[0].touched == 0
    assert figures_of(lambda scores, y: scores[[0, 2]].sum())[0].touched == 2 / 4
    known = dict(weight=1.0, value=2.0, tower=3.0, rest=4.0, share=1.0, levels={})
    unseen = {"a": {**known, "touched": None, "spread": None, "label": None}}
    row = _table({"b": {**known, "touched": 0.5, "spread": 5.0, "label": 0.25}, **unseen}).splitlines()
    assert row[2].split()[-3:] == ["50", "5", "25"] and row[3].split() == ["a", "1", "2", "3", "4", "100"]


def test_texts_of_another_size_show_in_the_first_stage_too():
    found = {}
    for factor in (1.0, 3.0):
        method, stage = opened("clip_reid", stage=0)
        scale_texts(method, factor)
        torch.manual_seed(2)
        found[factor] = term_gradients(method.eval(), stage, cached())
    for term in ("loss_i2t", "loss_t2i"):
        assert found[3.0][term].spread == pytest.approx(3 * found[1.0][term].spread, rel=1e-3)
        assert 0 < found[1.0][term].label < 1


def test_nothing_of_torch_or_the_method_stays_changed():
    method, stage = opened("clip_reid")
    hooks = {name: len(module._forward_hooks) for name, module in method.named_modules()}
    before = F.cross_entropy, IgnoringCrossEntropy.forward, SupCon.of_scores
    term_gradients(method, stage, batch())
    assert (F.cross_entropy, IgnoringCrossEntropy.forward, SupCon.of_scores) == before
    assert {name: len(module._forward_hooks) for name, module in method.named_modules()} == hooks
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
    assert report["stage"] == "stage2" and report["batches"] == 2 and report["images"] == 8
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
    "name, stage",
    [
        ("profd_synthocc", ""),
        ("dpm_spt_synthocc", "saliency"),
        ("ag_reid_synthocc", ""),
        ("clip_reid_synthocc", "stage1"),
    ],
)
def test_the_command_on_generated_pictures(name, stage, tmp_path, capsys):
    words = ["gradients", "--config-file", f"configs/{name}.yaml", "--generated", "--batches", "1"]
    words += ["--output", str(tmp_path / "g.json"), "train.batch_size", "8", "data.workers", "0"]
    words += ["method.stage1.batch_size", "5"] if stage == "stage1" else []
    assert main([*words[:3], *(["--stage", stage] if stage else []), *words[3:]]) == 0
    report = json.loads((tmp_path / "g.json").read_text())
    terms = report["terms"]
    assert all(term["tower"] + term["rest"] > 0 for term in terms.values() if term["weight"])
    assert any(term["tower"] > 0 for term in terms.values()) == (stage != "stage1")
    assert all(term["touched"] > 0 for term in terms.values())
    out = capsys.readouterr().out
    assert f"{report['stage']}: 1 batches of {5 if stage == 'stage1' else 8}" in out
    assert all(term in out for term in report["terms"])
