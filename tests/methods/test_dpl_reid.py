"""DPL-ReID: each set of texts tied to its images, losses against the written formulas, and CLIP-ReID as its base."""

import re

import pytest
import torch

from occplug import build_method
from occplug.config import default_config
from occplug.data.extras import wanted_extras
from occplug.engine import load_weights
from occplug.errors import ConfigError
from occplug.losses import SupCon
from occplug.method import parameter_groups

OPTIONS = ["data.height", 32, "data.width", 16, "backbone.weights", "none"]
OPTIONS += ["data.norm_mean", [0.5] * 3, "data.norm_std", [0.5] * 3, "method.stage1.occluder", "random_erase_pixel"]
CPU = torch.device("cpu")


def tiny(*options, classes=5, name="dpl_reid"):
    cfg = default_config(name, "clip_vit_tiny", [*(OPTIONS if name == "dpl_reid" else OPTIONS[:-2]), *options])
    torch.manual_seed(1)
    return build_method(cfg, classes, 3)


def images(n=8, classes=5):
    return {"img": torch.randn(n, 3, 32, 16), "pid": torch.arange(n) // 2 % classes, "camid": torch.arange(n) % 3}


def cached(n=6):
    return {
        "feature": torch.randn(n, 96),
        "feature_occ": torch.randn(n, 96),
        "occluded": torch.tensor([1, 0, 0, 1, 1, 0]).bool(),
        "pid": torch.tensor([0, 0, 3, 4, 1, 3]),
    }


def smoothed(scores, labels):
    target = torch.full_like(scores, 0.1 / scores.shape[1])
    target[torch.arange(len(labels)), labels] += 0.9
    return -(target * scores.log_softmax(1)).sum(1)


def text(method, prompts, labels):
    return torch.stack([method.text(prompts(torch.tensor([i])), prompts.eot)[0] for i in labels])


# ---------------------------------------------------------------------- stage 1


def test_stage1_ties_each_set_to_its_images():
    method = tiny().eval()
    stage, batch = method.stages()[0], cached()
    losses = stage.losses(batch)
    y, contrast = batch["pid"], SupCon()
    for kind, image in {"full": batch["feature"], "occ": batch["feature_occ"]}.items():
        t = text(method, getattr(method, f"prompts_{kind}"), y)
        assert losses[f"loss_i2t_{kind}"].item() == pytest.approx(contrast(image, t, y, y).item(), rel=1e-5)
        assert losses[f"loss_t2i_{kind}"].item() == pytest.approx(contrast(t, image, y, y).item(), rel=1e-5)
    assert stage.weights == dict.fromkeys(losses, 1.0)


def test_split_pairs_give_each_image_to_one_set():
    method = tiny("method.stage1.pairing", "split").eval()
    stage, batch = method.stages()[0], cached()
    losses, contrast = stage.losses(batch), SupCon()
    clean, occluded = ~batch["occluded"], batch["occluded"]
    for kind, rows, entry in (("full", clean, "feature"), ("occ", occluded, "feature_occ")):
        y, image = batch["pid"][rows], batch[entry][rows]
        t = text(method, getattr(method, f"prompts_{kind}"), y)
        assert losses[f"loss_i2t_{kind}"].item() == pytest.approx(contrast(image, t, y, y).item(), rel=1e-5)


def test_a_batch_without_occluded_images_trains_the_full_set_alone():
    method = tiny("method.stage1.pairing", "split")
    stage, batch = method.stages()[0], cached()
    batch["occluded"][:] = False
    losses = stage.losses(batch)
    assert losses["loss_i2t_occ"] == losses["loss_t2i_occ"] == 0
    sum(losses.values()).backward()
    assert method.prompts["full"].context.grad.abs().max() > 0
    assert method.prompts["occ"].context.grad.abs().max() == 0  # reached, but not moved


@pytest.mark.parametrize(
    "options, entry",
    [
        (["method.prompts", "full"], "feature"),
        (["method.prompts", "full", "method.stage1.full_images", "occluded"], "feature_occ"),
        (["method.prompts", "occ"], "feature_occ"),
    ],
)
def test_single_sets_and_the_images_they_see(options, entry):
    method = tiny(*options).eval()
    stage, batch = method.stages()[0], cached()
    losses = stage.losses(batch)
    kind = options[1]
    t = text(method, getattr(method, f"prompts_{kind}"), batch["pid"])
    expected = SupCon()(batch[entry], t, batch["pid"], batch["pid"])
    assert set(losses) == {f"loss_i2t_{kind}", f"loss_t2i_{kind}"}
    assert losses[f"loss_i2t_{kind}"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_stage1_trains_the_learnable_tokens_of_both_sets_and_nothing_else():
    method = tiny()
    parameter_groups(method, method.stages()[0].groups)
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert trained == {f"prompts.{name}" for name in ("full.context", "occ.context", "occ.others")}


def test_the_two_sets_of_texts_differ():
    method = tiny()
    method.stages()[1].prepare(None, CPU)
    assert method.text_features_by_kind["full"].shape == method.text_features_by_kind["occ"].shape == (5, 96)
    assert (method.text_features_by_kind["full"] - method.text_features_by_kind["occ"]).abs().max() > 1e-3


def test_trained_weights_are_bound_to_the_templates_of_the_sets():
    full, occ = "A photo of a X X X X person.", "A photo of a X X X X person occluded by Y Y Y Y."
    grid = {"data.height, data.width and backbone.stride": "for a grid of 4 x 2"}
    assert tiny().bound_to() == {"method.template_full": full, "method.template_occ": occ} | grid
    assert tiny("method.prompts", "occ").bound_to() == {"method.template_occ": occ} | grid


def test_shared_tokens():
    tied = tiny("method.share_id_tokens", True, "method.occ_tokens", "shared")
    assert tied.prompts["occ"].context is tied.prompts["full"].context
    assert tied.prompts["occ"].others.shape == (1, 4, 128)
    losses = tied.stages()[0].losses(cached())
    losses["loss_i2t_occ"].backward()
    assert tied.prompts["full"].context.grad.abs().max() > 0
    separate = tiny()
    assert separate.prompts["occ"].context is not separate.prompts["full"].context
    assert separate.prompts["occ"].others.shape == (5, 4, 128)


# ---------------------------------------------------------------------- stage 2


def expected_terms(method, batch):
    image = method.backbone(batch["img"], batch["camid"]).projected
    banks = {k: text(method, getattr(method, f"prompts_{k}"), range(5)) for k in ("full", "occ")}
    return image, banks


def test_stage2_has_a_term_for_each_set():
    method = tiny().eval()
    stage, batch = method.stages()[1], images()
    stage.prepare(None, CPU)
    losses = stage.losses(batch)
    image, banks = expected_terms(method, batch)
    for kind, bank in banks.items():
        expected = smoothed(image @ bank.T, batch["pid"]).mean().item()
        assert losses[f"loss_i2t_{kind}"].item() == pytest.approx(expected, rel=1e-5)
    assert stage.weights == {"loss_id": 0.25, "loss_tri": 1.0, "loss_i2t_full": 1.0, "loss_i2t_occ": 1.0}
    assert set(losses) == set(stage.weights)


def test_fused_texts_are_one_term_against_their_mean():
    method = tiny("method.stage2.i2t", "fused").eval()
    stage, batch = method.stages()[1], images()
    stage.prepare(None, CPU)
    losses = stage.losses(batch)
    image, banks = expected_terms(method, batch)
    expected = smoothed(image @ ((banks["full"] + banks["occ"]) / 2).T, batch["pid"]).mean().item()
    assert losses["loss_i2t_full"].item() == pytest.approx(expected, rel=1e-5)
    assert set(losses) == set(stage.weights) == {"loss_id", "loss_tri", "loss_i2t_full"}


@pytest.mark.parametrize("mode", ["by_image", "occluded_both"])
def test_each_image_has_the_terms_of_its_kind(mode):
    method = tiny("method.stage2.i2t", mode, "data.transforms", ["rwoa"]).eval()
    stage, batch = method.stages()[1], images()
    batch["occlusion"] = torch.zeros(8, 1, 32, 16, dtype=torch.uint8)
    batch["occlusion"][[1, 5], 0, 3, 4] = 255
    stage.prepare(None, CPU)
    losses = stage.losses(batch)
    image, banks = expected_terms(method, batch)
    occluded = torch.zeros(8).index_fill(0, torch.tensor([1, 5]), 1.0)
    full = 1 - occluded if mode == "by_image" else torch.ones(8)
    for kind, rows in (("full", full), ("occ", occluded)):
        expected = (smoothed(image @ banks[kind].T, batch["pid"]) * rows).sum().item() / 8
        assert losses[f"loss_i2t_{kind}"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("prompts, theirs", [("full", True), ("none", False)])
def test_its_base_is_clip_reid(prompts, theirs):
    base, clip = tiny("method.prompts", prompts), tiny("method.prompts", theirs, name="clip_reid")
    weights = {name.replace("prompts.", "prompts_full."): value for name, value in clip.state_dict().items()}
    base.load_state_dict(weights)
    pairs = zip(base.eval().stages(), clip.eval().stages(), strict=True)
    for mine, other in pairs:
        batch = cached() if mine.name == "stage1" else images()
        mine.prepare(None, CPU) if mine.name == "stage2" else None
        other.prepare(None, CPU) if mine.name == "stage2" else None
        got = {name.removesuffix("_full"): value.item() for name, value in mine.losses(batch).items()}
        assert got == {name: value.item() for name, value in other.losses(batch).items()}
        assert mine.schedule(3) == other.schedule(3)
    x = images()["img"]
    assert torch.equal(base.embed(x).vector, clip.embed(x).vector)


@pytest.mark.parametrize("how", [load_weights, lambda method, weights, file: method.load_state_dict(weights)])
def test_a_file_of_version_0_1_fits(how):
    """Its prompts had a module each, `prompts_full` and `prompts_occ`."""
    method, names = tiny("method.share_id_tokens", False), ("full", "occ")
    drawn = {key: torch.randn_like(v) if v.is_floating_point() else v for key, v in method.state_dict().items()}
    older = {re.sub(r"^prompts\.(full|occ)\.", r"prompts_\1.", key): value for key, value in drawn.items()}
    assert {key.split(".")[0] for key in older if "prompts" in key} == {"prompts_full", "prompts_occ"}
    how(method, older, "f.pth")
    assert all(torch.equal(value, drawn[key]) for key, value in method.state_dict().items())
    for name in names:
        assert getattr(method, f"prompts_{name}") is method.prompts[name], "the older name of the module"
    method.stages()[1].prepare(None, CPU)
    assert method.text_features_occ is method.text_features_by_kind["occ"]


def test_stage2_trains_neither_texts_nor_tokens():
    method = tiny()
    parameter_groups(method, method.stages()[1].groups)
    frozen = {name for name, p in method.named_parameters() if not p.requires_grad}
    kept = ("text.", "prompts.", "neck.norm.bias", "neck_proj.norm.bias")
    assert frozen and all(name.startswith(kept) for name in frozen)
    assert not any(n.startswith(("text.", "prompts")) for n, p in method.named_parameters() if p.requires_grad)


# ---------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "options, message",
    [
        (["method.prompts", "both"], "method.prompts is 'both'; there are: dual, full, occ, none"),
        (["method.stage2.i2t", "sum"], "method.stage2.i2t is 'sum'; there are: dual, fused, by_image, occluded_both"),
        (["method.stage1.occ_views", 0], "method.stage1.occ_views is 0; it must be from 1 to 1000"),
        (["method.stage1.occ_prob", 1.5], "method.stage1.occ_prob is 1.5; it must be from 0 to 1"),
        (
            [x for k in ("id", "tri", "i2t_full", "i2t_occ") for x in (f"method.stage2.weights.loss_{k}", 0.0)],
            "the weights of method.stage2 are all 0, so nothing would be trained",
        ),
        (["method.stage1.occluder", "fog"], "method.stage1.occluder is 'fog'; there are: "),
        (["method.template_occ", "A person."], "method.template_occ 'A person.' has no learnable token; write X"),
        (["method.template_full", "A photo of a X person, Y."], None),
        (["method.template_full", "A Z person."], "has the placeholder 'Z'"),
        (
            ["method.share_id_tokens", True, "method.template_occ", "A photo of a X X person by Y."],
            "template_full has 4 tokens X and template_occ 2; give both as many",
        ),
        (
            ["method.occ_tokens", "shared", "method.template_occ", "A photo of X."],
            "template_occ has no token Y to share",
        ),
    ],
)
def test_what_cannot_be_trained_is_said(options, message):
    if message is None:
        tiny(*options)
        return
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        tiny(*options)


@pytest.mark.parametrize("mode", ["by_image", "occluded_both"])
@pytest.mark.parametrize("transforms", [["random_flip"], ["random_erase_pixel"]])
def test_a_mode_by_image_needs_to_know_which_images_are_occluded(mode, transforms):
    options = [*OPTIONS, "method.stage2.i2t", mode, "data.transforms"]
    cfg = default_config("dpl_reid", "clip_vit_tiny", [*options, transforms])
    with pytest.raises(ConfigError, match="needs the batch entry 'occlusion', .* add .*rwoa to data.transforms"):
        wanted_extras(cfg)
    assert wanted_extras(default_config("dpl_reid", "clip_vit_tiny", [*options, ["rwoa"]])) == ("occlusion",)
