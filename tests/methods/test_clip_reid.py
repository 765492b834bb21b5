"""CLIP-ReID: losses against the written formula, what trains in which stage, prompts tied to identities."""

import pytest
import torch
import torch.nn.functional as F

from occplug import build_method
from occplug.config import default_config
from occplug.errors import ConfigError
from occplug.losses import BatchHardTriplet, SupCon
from occplug.method import parameter_groups

OPTIONS = [
    "data.height",
    32,
    "data.width",
    16,
    "backbone.weights",
    "none",
    "data.norm_mean",
    [0.5] * 3,
    "data.norm_std",
    [0.5] * 3,
]


def tiny(*options, classes=5, cameras=3):
    cfg = default_config("clip_reid", "clip_vit_tiny", [*OPTIONS, *options])
    torch.manual_seed(1)
    return build_method(cfg, classes, cameras)


def batch(n=8, classes=5, cameras=3):
    return {"img": torch.randn(n, 3, 32, 16), "pid": torch.arange(n) // 2 % classes, "camid": torch.arange(n) % cameras}


def test_stage1_is_supcon_both_ways_on_the_identities_prompts():
    method = tiny().eval()
    stage = method.stages()[0]
    image, label = torch.randn(6, 96), torch.tensor([0, 0, 3, 4, 1, 3])
    losses = stage.losses({"feature": image, "pid": label})
    text = torch.stack([method.text(method.prompts(torch.tensor([i])), method.prompts.eot)[0] for i in label])
    assert losses["loss_i2t"].item() == pytest.approx(SupCon()(image, text, label, label).item(), rel=1e-5)
    assert losses["loss_t2i"].item() == pytest.approx(SupCon()(text, image, label, label).item(), rel=1e-5)
    assert stage.weights == {"loss_i2t": 1.0, "loss_t2i": 1.0}


def test_stage1_trains_the_context_alone_and_moves_absent_identities_too():
    """Dense Adam: a row without images in the batch still gets its decay and momentum (spec, stage 1)."""
    method = tiny()
    stage = method.stages()[0]
    groups = parameter_groups(method, stage.groups)
    assert [name for name, p in method.named_parameters() if p.requires_grad] == ["prompts.context"]
    before = method.prompts.context.detach().clone()
    optimizer = stage.optimizer([{k: v for k, v in g.items() if k != "names"} for g in groups])
    sum(stage.losses({"feature": torch.randn(2, 96), "pid": torch.tensor([0, 1])}).values()).backward()
    optimizer.step()
    moved = (method.prompts.context - before).abs().amax(dim=(1, 2))
    assert (moved[2:] > 0).all()


def test_stage2_is_the_weighted_sum_of_the_specification():
    method = tiny().eval()
    stage = method.stages()[1]
    stage.prepare(None, torch.device("cpu"))
    b = batch()
    losses = stage.losses(b)
    seen = method.backbone(b["img"], b["camid"])
    y = b["pid"]

    def smoothed(scores):
        target = torch.full_like(scores, 0.1 / scores.shape[1])
        target[torch.arange(len(y)), y] += 0.9
        return -(target * scores.log_softmax(1)).sum(1).mean()

    expected_id = smoothed(method.neck(seen.feature)[1]) + smoothed(method.neck_proj(seen.projected)[1])
    expected_tri = sum(BatchHardTriplet(0.3)(f, y) for f in (seen.last, seen.feature, seen.projected))
    text = torch.cat([method.text(method.prompts(torch.tensor([i])), method.prompts.eot) for i in range(5)])
    expected_i2t = smoothed(seen.projected @ text.T)
    assert losses["loss_id"].item() == pytest.approx(expected_id.item(), rel=1e-5)
    assert losses["loss_tri"].item() == pytest.approx(expected_tri.item(), rel=1e-5)
    assert losses["loss_i2t"].item() == pytest.approx(expected_i2t.item(), rel=1e-5)
    assert stage.weights == {"loss_id": 0.25, "loss_tri": 1.0, "loss_i2t": 1.0}


def test_stage2_trains_all_but_text_prompts_and_the_necks_shifts():
    method = tiny("backbone.sie_camera", True)
    groups = parameter_groups(method, method.stages()[1].groups)
    frozen = {name for name, p in method.named_parameters() if not p.requires_grad}
    shifts = ("neck.norm.bias", "neck_proj.norm.bias")
    assert all(name.startswith(("text.", "prompts.")) or name in shifts for name in frozen)
    assert any(name.startswith("text.") for name in frozen)
    rate = {name: g["lr"] for g in groups for name in g["names"]}
    assert all(r == pytest.approx(1e-5 if "bias" in name else 5e-6) for name, r in rate.items())
    assert any(name.endswith("in_proj_bias") for name in rate)


def test_text_features_are_fixed_at_the_start_of_stage2():
    method = tiny()
    stage = method.stages()[1]
    stage.prepare(None, torch.device("cpu"))
    before = method.text_features.clone()
    assert before.shape == (5, 96) and not before.requires_grad
    with torch.no_grad():
        method.prompts.context.add_(1.0)
    stage.losses(batch())
    assert torch.equal(method.text_features, before)
    assert "text_features" not in method.state_dict()


def test_trained_weights_are_bound_to_the_template_however_it_is_written():
    grid = {"data.height, data.width and backbone.stride": "for a grid of 4 x 2"}
    bound = {"method.template": "A photo of a X X X X person."} | grid
    assert tiny().bound_to() == bound == tiny("method.template", bound["method.template"]).bound_to()
    assert tiny("method.template", "{4} person").bound_to() == {"method.template": "X X X X person"} | grid
    assert tiny("method.prompts", False).bound_to() == grid


def test_a_template_that_cannot_be_learnt_is_refused_before_anything_is_built():
    with pytest.raises(ConfigError, match="method.template 'a person' has no learnable token; write X for each"):
        default_config("clip_reid", "clip_vit_tiny", [*OPTIONS, "method.template", "a person"])
    default_config("clip_reid", "clip_vit_tiny", [*OPTIONS, "method.prompts", False, "method.template", "a person"])


def test_the_baseline_has_no_text_and_no_image_to_text_loss():
    method = tiny("method.prompts", False)
    (stage,) = method.stages()
    assert set(stage.losses(batch())) == {"loss_id", "loss_tri"} == set(stage.weights)
    assert not any(name.startswith(("text.", "prompts.")) for name in method.state_dict())


@pytest.mark.parametrize("neck", ["before", "after"])
def test_embedding_is_feature_and_projection_side_by_side(neck):
    method = tiny("method.neck", neck)
    method.neck.norm.running_mean.fill_(0.3)
    method.train()
    images = batch()["img"]
    embedding = method.embed(images)
    assert method.training and method.neck.norm.training, "embed leaves the mode as it was"
    seen = method.eval().backbone(images)
    parts = [seen.feature, seen.projected]
    if neck == "after":
        scale = (1 + 1e-5) ** -0.5
        parts = [(seen.feature - 0.3) * scale, seen.projected * scale]
    assert torch.allclose(embedding.vector, torch.cat(parts, 1), atol=1e-5)
    assert not embedding.vector.requires_grad and embedding.vector.dtype == torch.float32


def test_distance_is_two_minus_two_cosines():
    method = tiny()
    from occplug import Embedding

    q, g = torch.randn(3, 7), torch.randn(4, 7)
    expected = 2 - 2 * F.cosine_similarity(q[:, None], g[None], dim=-1)
    assert torch.allclose(method.distance(Embedding(q), Embedding(g)), expected, atol=1e-5)


def test_cameras_reach_the_embedding_only_with_sie():
    images, a, b = batch()["img"], torch.zeros(8, dtype=torch.long), torch.ones(8, dtype=torch.long)
    plain, sie = tiny(), tiny("backbone.sie_camera", True)
    assert torch.equal(plain.embed(images, a).vector, plain.embed(images, b).vector)
    assert not torch.allclose(sie.embed(images, a).vector, sie.embed(images, b).vector)


def test_texts_have_their_older_names():
    method = tiny()
    del method.prompts
    method.learn_texts("template")
    assert method.prompts.text == "A photo of a X X X X person."
    method.fix_text_features(None, torch.device("cpu"))
    assert method.double().text_features.dtype == torch.float64, "text features go where the module goes"
    with pytest.raises(AttributeError, match="prompts_occ"):
        method.prompts_occ  # noqa: B018
