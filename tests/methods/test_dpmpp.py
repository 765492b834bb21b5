"""DPM++: the sum of eq. 24 and its switches, what trains in which stage, texts fixed, stages taken over."""

import math

import pytest
import torch
import torch.nn.functional as F

from occplug.engine import MethodEngine, seed_everything
from occplug.errors import CheckpointError, ConfigError
from occplug.evaluation import masked_distance
from occplug.losses import AngularMargin, BatchHardTriplet, HeadDiversity, IgnoringCrossEntropy
from tests.methods.dpm_common import Data, batch, config, stage, tiny, trained, wake_mask

CPU = torch.device("cpu")
SHORT = ["method.semantic.epochs", 1, "method.saliency.epochs", 1, "method.train.epochs", 1]


def prepared(*options):
    method = tiny("dpmpp", *options).eval()
    method._fix_text_features(None, CPU)
    if method.metric.generator is not None:
        wake_mask(method)
    return method


def plain_cosine(f, m, w):
    rows = [[F.normalize(f[i], dim=0) @ F.normalize(m[i] * w[c], dim=0) for c in range(len(w))] for i in range(len(f))]
    return torch.stack([torch.stack(row) for row in rows])


def test_the_losses_are_those_of_equation_24():
    method, b = prepared("method.spt", False), batch()
    found = stage(method, "train").losses(b)
    seen = method.backbone(b["img"], b["camid"], blocks=[1, 2, 5, 6], class_scores=True)
    f, fp, y = seen.feature, seen.projected, b["pid"]
    n, w, m = f / math.sqrt(1 + 1e-5), method.metric.neck.classifier.weight, method.metric.generator(seen.blocks)
    texts = torch.cat([method.text(method.prompts(torch.tensor([k])), method.prompts.eot) for k in range(5)])
    expected = {
        "loss_coarse": F.cross_entropy(fp @ texts.T, y, label_smoothing=0.1),
        "loss_id": F.cross_entropy(n @ w.T, y, label_smoothing=0.1),
        "loss_mask": AngularMargin(30.0, 0.5)(plain_cosine(n, m, w), y),
        "loss_tri": BatchHardTriplet(0.3)(f, y),
        "loss_hem": HeadDiversity()(seen.class_scores),
    }
    assert {k: v.item() for k, v in found.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}, rel=1e-4
    )
    assert stage(method, "train").weights == {**dict.fromkeys(expected, 1.0), "loss_hem": 0.1}


@pytest.mark.parametrize("space, width", [("projected", 96), ("both", 224)])
def test_other_spaces_hold_prototypes_mask_triplet_and_test_feature(space, width):
    method, b = prepared("method.spt", False, "method.space", space), batch()
    found = stage(method, "train").losses(b)
    seen = method.backbone(b["img"], b["camid"], blocks=[1, 2, 5, 6])
    f = seen.projected if space == "projected" else torch.cat([seen.feature, seen.projected], 1)
    assert method.metric.neck.classifier.weight.shape == (5, width)
    assert found["loss_tri"].item() == pytest.approx(BatchHardTriplet(0.3)(f, b["pid"]).item(), rel=1e-4)
    embedding = method.embed(b["img"], b["camid"])
    torch.testing.assert_close(embedding.vector, f, atol=1e-5, rtol=1e-4)
    assert embedding.mask.shape == (8, width)


def test_text_prototypes_are_masked_in_their_own_space():
    method, b = prepared("method.spt", False, "method.prototypes", "text"), batch()
    found = stage(method, "train").losses(b)
    seen = method.backbone(b["img"], b["camid"], blocks=[1, 2, 5, 6])
    m = method.metric.generator(seen.blocks)
    assert m.shape == (8, 96)
    expected = AngularMargin(30.0, 0.5)(plain_cosine(seen.projected, m, method.text_features), b["pid"])
    assert found["loss_mask"].item() == pytest.approx(expected.item(), rel=1e-4)
    embedding = method.embed(b["img"], b["camid"])
    torch.testing.assert_close(embedding.vector, seen.projected, atol=1e-5, rtol=1e-4)
    expected = masked_distance(embedding.vector, embedding.mask, embedding.vector)
    assert torch.equal(method.distance(embedding, embedding), expected)


def test_the_triplet_loss_on_all_levels_is_a_sum():
    method, b = prepared("method.spt", False, "method.triplet_on", "all"), batch()
    seen = method.backbone(b["img"], b["camid"])
    expected = sum(BatchHardTriplet(0.3)(f, b["pid"]) for f in (seen.last, seen.feature, seen.projected))
    assert stage(method, "train").losses(b)["loss_tri"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_coarse_loss_may_end():
    method = prepared("method.spt", False, "method.train.coarse_epochs", 2)
    train = stage(method, "train")
    values = [float(train.losses({**batch(), "epoch": epoch})["loss_coarse"].detach()) for epoch in (1, 2, 3)]
    assert values[0] > 0 and values[1] > 0 and values[2] == 0


def test_candidates_are_ignored_in_the_coarse_loss_too():
    method = prepared("method.transfer.p_mix", 1.0, "method.transfer.select", "random")
    b = batch()
    found = stage(method, "train").losses(b)
    transfer, y = b["transfer"], b["pid"]
    seen = method.backbone(b["img"], b["camid"], change=transfer.change(method.backbone.grid))
    expected = IgnoringCrossEntropy(0.1)(seen.projected @ method.text_features.T, y, transfer.ignored(y))
    assert (transfer.ignored(y) >= 0).any() and all(v.isfinite() for v in found.values())
    assert found["loss_coarse"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_no_probability_equals_no_mixing():
    b = batch()
    without, never = prepared("method.spt", False), prepared("method.transfer.p_mix", 0.0)
    never.load_state_dict(without.state_dict(), strict=False)
    never._fix_text_features(None, CPU)
    one, other = stage(without, "train").losses(dict(b)), stage(never, "train").losses(dict(b))
    assert all(torch.allclose(one[k], other[k], rtol=1e-6) for k in one)


# ---------------------------------------------------------------------- stages


def test_what_each_stage_trains_and_how_fast():
    method = tiny("dpmpp", "backbone.sie_camera", True)
    assert [s.name for s in method.stages()] == ["semantic", "saliency", "train"]
    assert trained(method, stage(method, "semantic")) == {"prompts.context": 3.5e-4}
    saliency = trained(method, stage(method, "saliency"))
    assert all(name.startswith("saliency.") for name in saliency)
    assert {name for name, rate in saliency.items() if rate == 0.008} == {
        "saliency.decision.weight",
        "saliency.decision.bias",
    }
    assert {rate for rate in saliency.values()} == {0.008, 5e-6}
    train = trained(method, stage(method, "train"))
    missing = {name for name, _ in method.named_parameters() if name.startswith(("backbone.", "metric."))} - set(train)
    assert missing == {"metric.neck.norm.bias"}
    assert not any(name.startswith(("saliency.", "text.", "prompts.")) for name in train)
    for name, rate in train.items():
        base = 5e-6 if name.startswith("backbone.visual.") else 3.5e-4
        assert rate == pytest.approx(base * (2 if "bias" in name else 1)), name


def test_the_saliency_nets_classifier_may_have_a_rate_of_its_own():
    method = tiny("dpmpp", "method.saliency.module_lr", 0.1)
    rates = trained(method, stage(method, "saliency"))
    assert {name for name, rate in rates.items() if rate == 0.1} == {
        "saliency.neck.norm.weight",
        "saliency.neck.classifier.weight",
    }
    assert {rate for name, rate in rates.items() if name.startswith("saliency.backbone.")} == {5e-6}


def test_schedules_of_the_stages():
    method = tiny("dpmpp")
    train, saliency = stage(method, "train"), stage(method, "saliency")
    factors = [train.schedule(e) for e in (1, 19, 20, 39, 40, 60)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [saliency.schedule(e) for e in (1, 5, 60)] == pytest.approx([0.28, 1, 1])
    (extra,) = saliency.extra_optimizers
    assert not extra.own_pass and extra.groups[0].schedule(1) == 1.0


def test_alternating_updates_are_a_switch():
    method = tiny("dpmpp", "method.train.alternating", True)
    (extra,) = stage(method, "train").extra_optimizers
    assert extra.own_pass and "generator" in extra.groups[0].pattern
    assert not any(".generator" in g.pattern for g in stage(method, "train").groups)


def test_without_prompts_the_projection_stays_as_it_is():
    method = tiny("dpmpp", "method.prompts", False)
    assert [s.name for s in method.stages()] == ["saliency", "train"]
    assert "backbone.visual.proj" not in trained(method, stage(method, "train"))
    assert "loss_coarse" not in stage(method, "train").weights


def snapshot(method):
    return {name: value.clone() for name, value in method.state_dict().items()}


def changed(before, method):
    return {name.split(".")[0] for name, value in method.state_dict().items() if not torch.equal(before[name], value)}


def run(tmp_path, *options, data=None):
    """Train; returns the method and what changed in each stage."""
    method, seen = tiny("dpmpp", *SHORT, *options), []
    before = snapshot(method)

    class Spy(MethodEngine):
        def run_stage(self, *args):
            texts = getattr(method, "text_features", torch.empty(0)).clone()
            super().run_stage(*args)
            seen.append((self.stage_name, changed(before, method)))
            if self.stage_name == "train" and len(texts):
                assert torch.equal(texts, method.text_features)
                labels = torch.arange(5)
                assert torch.allclose(texts, method._encode_prompts(labels), atol=1e-6)
            before.update(snapshot(method))

    seed_everything(2)
    Spy(config("dpmpp", *SHORT, *options), data or Data(), method, tmp_path, CPU).run_stages()
    return method, seen


def test_frozen_parts_stay_frozen_through_all_stages(tmp_path):
    _, seen = run(tmp_path, "method.transfer.p_mix", 1.0)
    assert seen == [("semantic", {"prompts"}), ("saliency", {"saliency"}), ("train", {"backbone", "metric"})]


def test_the_last_stage_runs_on_the_results_of_an_earlier_run(tmp_path):
    first, _ = run(tmp_path / "first")
    path = tmp_path / "first/checkpoints/saliency.pth"
    options = ["method.start", "train", "method.earlier", str(path)]
    method, seen = run(tmp_path / "second", *options)
    assert seen == [("train", {"backbone", "metric"})]
    for name in ("prompts.context", "saliency.decision.weight", "text.text_projection"):
        assert torch.equal(method.state_dict()[name], first.state_dict()[name])
    semantic = tmp_path / "first/checkpoints/semantic.pth"
    with pytest.raises(
        CheckpointError, match=r"the stage 'saliency' is not finished in it \(finished: semantic\); give"
    ):
        tiny("dpmpp", *SHORT, "method.start", "train", "method.earlier", str(semantic))
    with pytest.raises(CheckpointError, match="trained with method.template 'A photo of a X X X X person.', and this"):
        tiny("dpmpp", *SHORT, *options, "method.template", "A picture of a {4} person.")
    with pytest.raises(CheckpointError, match="was trained on another data set"):
        run(tmp_path / "third", *options, data=Data(name="other"))


@pytest.mark.parametrize(
    "options, message",
    [
        (["method.start", "train"], "results of semantic and saliency are not given: make them with `occplug train"),
        (["method.space", "512"], "method.space is '512'; there are: feature, projected, both"),
        (["method.prototypes", "text", "method.prompts", False], "needs method.prompts True"),
        (["method.prototypes", "text", "method.mask", "none"], "needs a method.mask"),
        (["method.prototypes", "text", "method.neck", "after"], "the feature f_p is tested, as it is"),
        (["method.neck", "both"], "method.neck is 'both'; there are: before, after"),
        (["method.triplet_on", "f"], "method.triplet_on is 'f'"),
        (["method.mask", "pre"], "method.mask is 'pre'"),
        (["method.transfer.p_mix", 2], "method.transfer.p_mix is 2"),
        (["backbone.name", "wgff", "backbone.weights", "none"], "'wgff', and dpmpp works on clip_vit_b16"),
    ],
)
def test_wrong_keys_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        config("dpmpp", *options)
