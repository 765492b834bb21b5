"""AG-ReID: both stages' losses against the paper's equations, what trains when, and that testing is CLIP-ReID's."""

import logging
import math

import pytest
import torch
import torch.nn.functional as F

from occplug import build_method
from occplug.config import default_config
from occplug.engine import load_weights
from occplug.errors import CheckpointError, ConfigError, DataError
from occplug.losses import otsu_threshold
from occplug.method import parameter_groups

SMALL = ["data.height", 32, "data.width", 16, "backbone.weights", "none", "method.attributes.width", 24]
SMALL += ["method.template", "A X person with X hair and X X top."]


def tiny(*options, classes=5, cameras=3, model="ag_reid"):
    base = SMALL if model == "ag_reid" else SMALL[:6] + SMALL[8:]
    torch.manual_seed(1)
    return build_method(default_config(model, "clip_vit_tiny", [*base, *options]), classes, cameras)


def batch(n=8, classes=5, cameras=3):
    return {"img": torch.randn(n, 3, 32, 16), "pid": torch.arange(n) // 2 % classes, "camid": torch.arange(n) % cameras}


def supcon(x, y, label):
    """Eq. 6 by loops: mean over rows of the mean over its positives."""
    total = 0.0
    for i in range(len(x)):
        scores = [float(x[i] @ y[j]) for j in range(len(y))]
        top = max(scores)
        log_sum = top + math.log(sum(math.exp(s - top) for s in scores))
        own = [scores[j] - log_sum for j in range(len(y)) if label[j] == label[i]]
        total -= sum(own) / len(own)
    return total / len(x)


def attr_loss(predicted, target, gamma=-2.0):
    """Eq. 8 and 14 by loops."""
    n, r, _ = predicted.shape
    total = 0.0
    for i in range(n):
        for j in range(r):
            c = float(predicted[i, j] @ target[i, j] / (predicted[i, j].norm() * target[i, j].norm()))
            total += c if c > gamma else 0.0
    return -total / r


@torch.no_grad()
def test_stage1_is_equations_6_to_9():
    method = tiny().eval()
    stage = method.stages()[0]
    image, label = torch.randn(6, 96), torch.tensor([0, 0, 3, 4, 1, 3])
    losses = stage.losses({"feature": image, "pid": label})
    text = torch.cat([method.text(method.prompts(label[i : i + 1]), method.prompts.eot) for i in range(6)])
    assert losses["loss_i2t"].item() == pytest.approx(supcon(image, text, label), rel=1e-4)
    assert losses["loss_t2i"].item() == pytest.approx(supcon(text, image, label), rel=1e-4)
    tokens = torch.stack([method.prompts.context[k] for k in label])
    predicted = torch.cat([method.attributes(f[None]) for f in image])
    assert losses["loss_attr"].item() == pytest.approx(attr_loss(predicted, tokens), rel=1e-4)
    assert stage.weights == {"loss_i2t": 1.0, "loss_t2i": 1.0, "loss_attr": 1.0}


@torch.no_grad()
@pytest.mark.parametrize("mask", ["otsu", "p75", "0.02", "none"])
def test_stage2_is_equations_10_to_15(mask):
    method = tiny("method.noise_mask.method", mask, "backbone.sie_camera", True).eval()
    stage = method.stages()[1]
    stage.prepare(None, torch.device("cpu"))
    b, y = batch(), batch()["pid"]
    losses = stage.losses(b)
    seen = method.backbone(b["img"], b["camid"])

    def smoothed(scores):
        target = torch.full_like(scores, 0.1 / scores.shape[1])
        target[torch.arange(len(y)), y] += 0.9
        return -(target * scores.log_softmax(1)).sum(1).mean().item()

    def triplet(f):
        d = [[float((f[i] - f[j]).norm()) for j in range(len(f))] for i in range(len(f))]
        hardest = [
            max(d[i][j] for j in range(len(f)) if y[j] == y[i]) - min(d[i][j] for j in range(len(f)) if y[j] != y[i])
            for i in range(len(f))
        ]
        return sum(max(gap + 0.3, 0) for gap in hardest) / len(f)

    expected_id = smoothed(method.neck(seen.feature)[1]) + smoothed(method.neck_proj(seen.projected)[1])
    assert losses["loss_id"].item() == pytest.approx(expected_id, rel=1e-4)
    expected_tri = sum(triplet(f) for f in (seen.last, seen.feature, seen.projected))
    assert losses["loss_tri"].item() == pytest.approx(expected_tri, rel=1e-3)
    text = torch.cat([method.text(method.prompts(torch.tensor([i])), method.prompts.eot) for i in range(5)])
    assert losses["loss_i2t"].item() == pytest.approx(smoothed(seen.projected @ text.T), rel=1e-4)
    predicted, tokens = method.attributes(seen.projected), method.prompts.context[y]
    cosines = F.cosine_similarity(predicted, tokens, dim=-1)
    above = otsu_threshold(cosines) + 1e-6  # it is one of the cosines, and rounding must not put that one over it
    gamma = {"otsu": above, "p75": cosines.quantile(0.75), "0.02": 0.02, "none": -2}[mask]
    expected = attr_loss(predicted, tokens, float(gamma))
    assert losses["loss_attr"].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    if mask != "none":
        assert expected != pytest.approx(attr_loss(predicted, tokens), rel=1e-3)
    assert stage.weights == {"loss_id": 0.25, "loss_tri": 1.0, "loss_i2t": 1.0, "loss_attr": 0.01}


def trained(method, stage):
    parameter_groups(method, stage.groups)
    return {name for name, p in method.named_parameters() if p.requires_grad}


def test_what_trains_when():
    method = tiny("backbone.sie_camera", True)
    one, two = method.stages()
    encoder = {f"attributes.{name}" for name, _ in method.attributes.named_parameters()}
    assert trained(method, one) == {"prompts.context"} | encoder
    every = {name for name, _ in method.named_parameters()}
    out = {name for name in every if name.startswith(("text.", "prompts."))}
    assert trained(method, two) == every - out - {"neck.norm.bias", "neck_proj.norm.bias"}
    frozen = tiny("method.attributes.train_in_stage2", False)
    assert trained(frozen, frozen.stages()[1]) & encoder == set()


@pytest.mark.parametrize("detached", [True, False])
def test_the_alignment_moves_the_tokens_only_if_asked(detached):
    method = tiny("method.attributes.detach_target", detached)
    loss = method.stages()[0].losses({"feature": torch.randn(4, 96), "pid": torch.tensor([0, 1, 1, 4])})["loss_attr"]
    grads = torch.autograd.grad(loss, [method.prompts.context, method.attributes.slots], allow_unused=True)
    assert (grads[0] is None) == detached and grads[1].abs().sum() > 0


def test_only_the_learnable_tokens_of_the_labels_get_a_gradient():
    method = tiny()
    stage = method.stages()[0]
    parameter_groups(method, stage.groups)
    sum(stage.losses({"feature": torch.randn(3, 96), "pid": torch.tensor([0, 2, 2])}).values()).backward()
    touched = method.prompts.context.grad.abs().sum(-1) > 0
    assert touched.any(1).tolist() == [True, False, True, False, False] and touched[0].all()
    assert not method.prompts.template.requires_grad


def test_stage2_leaves_tokens_and_text_tower_alone_and_reaches_the_tower():
    method = tiny()
    stage = method.stages()[1]
    stage.prepare(None, torch.device("cpu"))
    groups = [{k: v for k, v in g.items() if k != "names"} for g in parameter_groups(method, stage.groups)]
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    optimizer = stage.optimizer(groups)
    losses = stage.losses(batch())
    sum(stage.weights[name] * loss for name, loss in losses.items()).backward()
    optimizer.step()
    same = {name for name, p in method.named_parameters() if torch.equal(p, before[name])}
    assert {name for name in before if name.startswith(("text.", "prompts."))} <= same
    assert "backbone.visual.conv1.weight" not in same and "attributes.slots" not in same


def test_masked_images_send_no_gradient_to_the_tower():
    method = tiny("method.noise_mask.method", "1.0")
    images = batch()["img"].requires_grad_()
    seen = method.backbone(images)
    guided = method._guidance_loss(seen.projected, batch()["pid"])
    (gradient,) = torch.autograd.grad(guided, images)
    assert guided.item() == 0 and (gradient == 0).all()


# ---------------------------------------------------------------------- scope and log of the mask


def test_the_previous_epochs_threshold_is_kept_for_the_next(caplog):
    method = tiny("method.noise_mask.scope", "epoch", "method.noise_mask.method", "p50").eval()
    stage = method.stages()[1]
    label, features = torch.tensor([0, 1, 2]), torch.randn(4, 3, 96)
    cosines = [method.align.cosines(method.attributes(f), method.prompts.context[label]).detach() for f in features]
    first = method._guidance_loss(features[0], label)
    own = cosines[0].flatten().quantile(0.5)  # nothing to go by yet
    assert first.item() == pytest.approx(-(cosines[0] * (cosines[0] > own)).sum().item() / 4, abs=1e-5)
    method._guidance_loss(features[1], label)
    with caplog.at_level(logging.INFO, logger="occplug"):
        stage.after_epoch()
    pooled = torch.cat(cosines[:2]).flatten().quantile(0.5)
    assert method.guidance.gamma.item() == pytest.approx(pooled.item())
    third = method._guidance_loss(features[2], label)
    assert third.item() == pytest.approx(-(cosines[2] * (cosines[2] > pooled)).sum().item() / 4, abs=1e-5)
    assert "guidance.gamma" in method.state_dict()
    mean = torch.cat(cosines[:2]).mean().item()
    assert f"noise mask p50: gamma {method_gamma(cosines):.4f}, 50.0 % of the pairs kept" in caplog.text
    assert f"mean cosine {mean:.4f}" in caplog.text


def method_gamma(cosines):
    return sum(c.flatten().quantile(0.5).item() for c in cosines[:2]) / 2


def test_batch_scope_forgets_the_epoch():
    method = tiny()
    method._guidance_loss(torch.randn(3, 96), torch.tensor([0, 1, 2]))
    method.stages()[1].after_epoch()
    assert method.guidance.gamma.isinf() and method.guidance._seen == []


# ---------------------------------------------------------------------- ablations and testing


def test_prompts_alone_have_neither_encoder_nor_attribute_loss():
    method = tiny("method.attributes.enabled", False)
    one, two = method.stages()
    two.prepare(None, torch.device("cpu"))
    assert set(one.weights) == {"loss_i2t", "loss_t2i"} and set(two.weights) == {"loss_id", "loss_tri", "loss_i2t"}
    assert set(two.losses(batch())) == set(two.weights)
    assert not any(name.startswith(("attributes.", "guidance.")) for name in method.state_dict())


@pytest.mark.parametrize("neck", ["before", "after"])
def test_testing_is_clip_reids_and_never_calls_the_attribute_encoder(neck):
    ours = tiny("method.neck", neck, "backbone.sie_camera", True)
    clip = tiny("method.neck", neck, "backbone.sie_camera", True, model="clip_reid")
    extra = ours.state_dict().keys() - clip.state_dict().keys()
    assert all(name.startswith(("attributes.", "guidance.")) for name in extra)
    assert clip.state_dict().keys() <= ours.state_dict().keys()
    clip.load_state_dict({name: value for name, value in ours.state_dict().items() if name not in extra})
    called = {"ours": [], "clip": []}
    for key, method in (("ours", ours), ("clip", clip)):
        for name, module in method.named_modules():
            module.register_forward_hook(lambda *_, name=name, key=key: called[key].append(name))
    b = batch()
    assert torch.equal(ours.embed(b["img"], b["camid"]).vector, clip.embed(b["img"], b["camid"]).vector)
    assert called["ours"] == called["clip"] and called["ours"]
    assert not any(name.startswith(("attributes", "prompts", "text")) for name in called["ours"])
    del ours.attributes, ours.prompts, ours.text
    assert torch.equal(ours.embed(b["img"], b["camid"]).vector, clip.embed(b["img"], b["camid"]).vector)


def test_cameras_can_be_left_out_at_test():
    method, b = tiny("backbone.sie_camera", True, "method.test_cameras", False), batch()
    zeros = method.embed(b["img"], None).vector
    assert torch.equal(method.embed(b["img"], torch.full((8,), 77)).vector, zeros)
    told = tiny("backbone.sie_camera", True)
    assert not torch.allclose(told.embed(b["img"], b["camid"]).vector, zeros)
    with pytest.raises(DataError, match="camera 77"):
        told.embed(b["img"], torch.full((8,), 77))


def test_rn50_predicts_tokens_from_its_wider_feature():
    with torch.device("meta"):
        method = build_method(default_config("ag_reid", "clip_rn50", ["backbone.weights", "none"]), 5, 3)
    assert sum(p.numel() for p in method.attributes.parameters()) == 2_956_160 + 384 * 10
    assert method.attributes.leave.out_features == 512 == method.prompts.context.shape[-1]


def test_the_default_is_attribute_d_at_full_size():
    with torch.device("meta"):
        method = build_method(default_config("ag_reid", opts=["backbone.weights", "none"]), 702, 8)
    assert method.prompts.context.shape == (702, 10, 512) and method.prompts.slots[-1] == 28
    assert sum(p.numel() for p in method.attributes.parameters()) == 2_763_392


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["method.template", "a person"], "method.template 'a person' has no learnable token; write X for each"),
        (["method.template", "X " * 80], "has 82 tokens; CLIP takes at most 77"),
        (["method.template", "a X {hair}"], "has {hair}; {n} needs a number of learnable tokens"),
        (["method.template", "a X Y"], "has the placeholder 'Y'; learnable tokens here are X"),
        (["method.noise_mask.method", "otsi"], "method.noise_mask.method is 'otsi'; there are: otsu, a percentile"),
        (["method.noise_mask.scope", "run"], "method.noise_mask.scope is 'run'; there are: batch, epoch"),
        (["method.attributes.reduction", "max"], "method.attributes.reduction is 'max'; there are: sum, mean"),
        (["method.attributes.heads", 5], "has width 24, 5 heads and 4 layers; each must be at least 1, and width a"),
    ],
)
def test_bad_values_are_refused_before_anything_is_built(options, message):
    with pytest.raises(ConfigError) as caught:
        default_config("ag_reid", "clip_vit_tiny", [*SMALL, *options])
    assert message in str(caught.value)


def test_weights_of_another_attribute_encoder_are_explained():
    without = tiny("method.attributes.enabled", False).state_dict()
    with pytest.raises(CheckpointError, match="one has method.attributes.enabled True and the other has not"):
        load_weights(tiny(), without, "stage1.pth")
    with pytest.raises(CheckpointError, match=r"trained with another attribute encoder \(method.attributes\)"):
        load_weights(tiny(), tiny("method.attributes.width", 12).state_dict(), "stage1.pth")
