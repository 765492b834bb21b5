"""Every method on towers without texts: what trains, what is tested, what is refused; on the two small ones."""

import re
from pathlib import Path

import pytest
import torch

from occplug.backbones.architectures import ARCHITECTURES
from occplug.backbones.licences import licences_of_run
from occplug.cli import main
from occplug.config import default_config
from occplug.data.manager import GeneratedDataManager
from occplug.errors import ConfigError
from occplug.method import build_method, parameter_groups
from occplug.registry import BACKBONES, build, has_texts
from tests.backbones import small

SIZE = (64, 32)
COMMON = {
    "backbone.weights": "none", "prompts.weights": "none", "data.height": 64, "data.width": 32, "data.workers": 0,
    "train.batch_size": 8, "sampler.train_sampler": "identity", "sampler.num_instances": 2, "masks.source": "stripes",
}  # fmt: skip
TOWERS = ("vit_mini", "solider_swin_mini")
PROFD = {"method.train.text_encoder_lr_mult": 0.0}
DPM_ON = {
    "vit_mini": {"method.spt": True},
    # 64 x 32 has too coarse a grid for the masks of a Swin
    "solider_swin_mini": {"method.hem": False, "data.height": 128, "data.width": 64, "method.spt": True},
}
CASES = [
    *((method, tower, {}) for method in ("clip_reid", "dpl_reid", "ag_reid") for tower in TOWERS),
    *(("profd", tower, PROFD) for tower in TOWERS),
    *((method, tower, DPM_ON[tower]) for method in ("dpm", "dpmpp") for tower in TOWERS),
    *((method, tower, {"prompts.source": "joint"}) for method in ("clip_reid", "dpl_reid") for tower in TOWERS[:1]),
    ("dpmpp", "vit_mini", {"prompts.source": "joint", "method.spt": False}),
    ("clip_reid", "solider_swin_mini", {"method.spt": True}),
]


def config(method, tower, options=()):
    pairs = COMMON | dict(options)
    return default_config(method, tower, [word for pair in pairs.items() for word in pair])


ROOT = Path(__file__).parents[2]
# config at full size -> keys that put it on another backbone; one of each kind
FULL_SIZE = {
    "clip_reid_occduke": "backbone.weights open_clip:laion2b_s34b_b88k",
    "clip_reid_msmt17": "backbone.name clip_vit_l14 backbone.stride 14 data.height 252 data.width 126",
    "clip_reid_market": "backbone.name eva02_clip_b16 backbone.weights open_clip:merged2b_s8b_b131k",
    "dpmpp_personvit_occduke": "",
    "profd_personvit_occduke": "",
    "baseline_personvit_s_occduke": "",
    "baseline_solider_t_occduke": "",
    "baseline_solider_s_occduke": "",
    "clip_reid_solider_occduke": "",
    "dpl_reid_solider_occduke": "",
    "dpm_personvit_occduke": "backbone.name timm:vit_small_patch16_224.dino backbone.weights timm",
    "baseline_personvit_market": "backbone.name timm:vit_small_patch16_dinov3.lvd1689m backbone.weights timm",
}


@pytest.mark.slow
@pytest.mark.parametrize("config", list(FULL_SIZE))
def test_every_kind_of_backbone_goes_through_a_dry_run_at_full_size(config, capsys):
    file = str(ROOT / f"configs/{config}.yaml")
    assert main(["train", "--config-file", file, "--dry-run", *FULL_SIZE[config].split()]) == 0
    printed = capsys.readouterr().out
    cost = re.search(
        r"and a test went through; (\d+) s of processor time, (\d+\.\d) GiB of memory at the peak", printed
    )
    assert cost and int(cost[1]) > 0 and float(cost[2]) > 0.2


def test_a_run_is_bound_by_its_backbone_and_by_a_restricted_clip_beside_it():
    free = config("clip_reid", "vit_mini", {"backbone.weights": "embedded"})
    assert [licence.name for licence in licences_of_run(free)] == ["cc0-1.0"]
    beside = {"prompts.clip": "clip_vit_b16", "prompts.weights": "open_clip:metaclip_400m"}
    found = licences_of_run(config("clip_reid", "vit_mini", beside | {"backbone.weights": "embedded"}))
    assert [licence.name for licence in found] == ["cc0-1.0", "cc-by-nc-4.0"]
    own = config("clip_reid", "clip_vit_b16", {"backbone.weights": "open_clip:dfn2b"})
    assert [licence.name for licence in licences_of_run(own)] == ["apple-amlr"]


@pytest.mark.parametrize("method, tower, options", CASES, ids=lambda v: str(v) if isinstance(v, str) else "-".join(v))
def test_every_trained_parameter_of_every_stage_has_a_gradient(method, tower, options):
    cfg = config(method, tower, options)
    model = trained_parameters_have_gradients(cfg)
    images = torch.randn(3, 3, cfg.data.height, cfg.data.width)
    embedding = model.embed(images)
    assert model.distance(embedding, embedding).isfinite().all()
    if method in ("clip_reid", "dpl_reid", "ag_reid"):  # the feature alone, nothing of the text space
        assert torch.equal(embedding.vector, model.eval().backbone(images).feature.detach())


def trained_parameters_have_gradients(cfg):
    """The model of `cfg`, of which each stage has computed its losses once."""
    torch.manual_seed(0)
    model, data = build_method(cfg, 8, 2), GeneratedDataManager(cfg, 8, 2)
    frozen = {name: value.clone() for name, value in model.state_dict().items() if name.startswith("prompt_clip.")}
    for stage in model.stages():
        groups = [*stage.groups, *(group for extra in stage.extra_optimizers for group in extra.groups)]
        trained = [name for group in parameter_groups(model, groups) for name in group["names"]]
        model.eval()
        stage.prepare(data, torch.device("cpu"))
        model.train()
        data.set_epoch(0)
        batch = next(iter(stage.loader(data) if stage.loader else data.train_loader)) | {"epoch": 1}
        losses = stage.losses(batch)
        assert set(losses) == set(stage.weights) and all(loss.isfinite() for loss in losses.values())
        model.zero_grad()
        sum(stage.weights[name] * loss for name, loss in losses.items()).backward()
        without = [name for name, p in model.named_parameters() if name in trained and p.grad is None]
        assert without == [], stage.name
    assert all(torch.equal(model.state_dict()[name], value) for name, value in frozen.items())
    return model


EVA = {"data.height": 112, "data.width": 56, "backbone.stride": 14}
ON_EVA = [
    ("clip_reid", {}),
    ("dpm", {"method.hem": False, "method.spt": True}),
    ("dpmpp", {"method.hem": False, "method.prompts": False}),
    (
        "profd",
        {"method.bank": "global", **{f"method.train.weights.loss_{name}": 0 for name in ("align", "attn", "vis")}},
    ),
]


@pytest.fixture
def small_eva(monkeypatch):
    """A small CLIP behind the name of EVA02-B-16."""
    sizes = {"embed_dim": 24, "vision_cfg": {"timm": "eva02_tiny_patch14_224"}, "text_cfg": small.TEXT}
    monkeypatch.setitem(ARCHITECTURES, "eva02_clip_b16", {**sizes, "quick_gelu": False})


@pytest.mark.parametrize("method, options", ON_EVA)
def test_the_projection_of_eva02_trains_and_is_kept_only_where_something_reads_it(small_eva, method, options):
    cfg = config(method, "eva02_clip_b16", EVA | options)
    model = trained_parameters_have_gradients(cfg)
    heads = [name for name in model.state_dict() if ".head." in name and not name.startswith("saliency.")]
    assert len(heads) == 2
    left_out = [name for name in heads if any(re.fullmatch(p, name) for p in model.training_only)]
    assert left_out == (heads if method in ("dpm", "dpmpp") else [])


@pytest.mark.parametrize(
    "name, options",
    [
        ("clip_vit_tiny", {"image_size": SIZE, "stride": 8}),
        ("clip_rn50", {"image_size": SIZE}),
        ("eva02_clip_b16", {"image_size": (112, 56), "stride": 14}),
        ("wgff", {"clip": "clip_vit_tiny", "lsnet": "lsnet_mini", "weights": "none", "image_size": SIZE, "stride": 8}),
        ("wgff", {"clip": "clip_rn50", "lsnet": "lsnet_mini", "weights": "none", "image_size": SIZE}),
        ("vit_mini", {"image_size": SIZE, "stride": 8}),
        ("solider_swin_mini", {"image_size": SIZE}),
    ],
)
def test_a_tower_names_its_projection(small_eva, monkeypatch, name, options):
    monkeypatch.setitem(ARCHITECTURES, "clip_rn50", small.RESNET)
    torch.manual_seed(0)
    tower = build(BACKBONES, name, **options).train()
    features = tower(torch.randn(2, 3, *options["image_size"]))
    features.feature.square().sum().backward()
    unread = {name for name, parameter in tower.named_parameters() if parameter.grad is None}
    named = [*tower.projection_names, *tower.untrained()]
    assert unread == {name for name, _ in tower.named_parameters() if any(re.fullmatch(p, name) for p in named)}
    assert bool(tower.projection_names) == has_texts(name)


def test_texts_learnt_beside_a_clip_are_compared_by_cosines():
    model = build_method(config("clip_reid", "vit_mini"), 3, 1).eval()
    feature, texts = torch.randn(2, 104), torch.randn(3, 96)
    p = feature @ model.text_space.weight.T
    expected = [[(p[i] @ texts[j] / p[i].norm() / texts[j].norm() / 0.07).item() for j in range(3)] for i in range(2)]
    torch.testing.assert_close(model.text_space.logits(feature, texts), torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_stage_one_is_that_of_the_clip_alone_so_its_checkpoint_is_shared(tmp_path):
    plain = build_method(
        config("clip_reid", "clip_vit_tiny", {"backbone.weights": "embedded", "backbone.stride": 8}), 5, 1
    )
    foreign = build_method(config("clip_reid", "solider_swin_mini", {"prompts.weights": "embedded"}), 5, 1)
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(foreign.eval().encode_images(images), plain.eval().encode_images(images))
    plain.prompts.context.data.normal_()
    torch.save(
        {"format": "occplug-1", "stage": "stage1", "state_dict": plain.state_dict(), "bound_to": plain.bound_to()},
        tmp_path / "stage1.pth",
    )
    options = {"method.start": "stage2", "method.earlier": str(tmp_path / "stage1.pth"), "prompts.weights": "embedded"}
    taken = build_method(config("clip_reid", "vit_mini", options), 5, 1)
    assert torch.equal(taken.prompts.context, plain.prompts.context)
    assert [stage.name for stage in taken.stages()] == ["stage2"]


@pytest.mark.parametrize(
    "method, tower, options, told",
    [
        ("dpm", "solider_swin_mini", {}, r"method\.hem is True, which needs scores of a class token"),
        ("dpmpp", "solider_swin_mini", {}, r"method\.hem is True"),
        (
            "dpmpp",
            "vit_mini",
            {"method.space": "projected"},
            r"method\.space is 'projected', but vit_mini has no",
        ),
        (
            "clip_reid",
            "solider_swin_mini",
            {"backbone.sie_camera": True},
            r"sie_camera is True, which needs a class",
        ),
        ("clip_reid", "solider_swin_mini", {"backbone.stride": 8}, "fixed stride of 16"),
        (
            "profd",
            "vit_mini",
            {},
            r"text_encoder_lr_mult is 1\.0, but the texts of vit_mini",
        ),
        ("clip_reid", "clip_vit_tiny", {"prompts.source": "joint", "backbone.stride": 8}, "has texts of its own"),
        ("ag_reid", "vit_mini", {"prompts.source": "joint"}, "learns its attributes in a stage"),
        (
            "clip_reid",
            "clip_vit_tiny",
            {"backbone.drop_path": 0.1, "backbone.stride": 8},
            r"drop_path is 0\.1",
        ),
        ("profd", "timm:convnext_atto.d2_in1k", PROFD, "needs patch tokens"),
        ("dpmpp", "vit_mini", {"backbone.sie_camera": True}, r"method\.sie_scope is 'cls', but vit_mini adds its"),
        (
            "clip_reid",
            "vit_mini",
            {"backbone.weights": "a.pth", "backbone.activation": "gelu"},
            r"backbone\.activation is 'gelu', but vit_mini has no choice of it; leave it out",
        ),
        (
            "clip_reid",
            "clip_vit_tiny",
            {"backbone.weights": "a.pth", "backbone.activation": "gelu", "backbone.stride": 8},
            r"backbone\.activation is 'gelu', but clip_vit_tiny has no choice of it",
        ),
        (
            "clip_reid",
            "vit_mini",
            {"prompts.clip": "clip_vit_b16", "prompts.weights": "openai", "prompts.activation": "gelu"},
            r"prompts\.activation is 'gelu', but 'openai' tells its own; leave it out",
        ),
        (
            "clip_reid",
            "vit_mini",
            {"prompts.weights": "a.pth", "prompts.activation": "gelu"},
            r"prompts\.activation is 'gelu', but clip_vit_tiny has no choice of it",
        ),
    ],
)
def test_what_cannot_be_combined_is_an_error_that_names_what_is_lacking(method, tower, options, told):
    with pytest.raises(ConfigError, match=told):
        config(method, tower, options)


def test_cameras_on_all_tokens_are_what_a_foreign_tower_has():
    model = build_method(config("dpmpp", "vit_mini", {"backbone.sie_camera": True, "method.sie_scope": "all"}), 5, 2)
    assert model.backbone.camera_embedding.shape == (2, 104)


def test_texts_that_learn_along_have_the_rate_of_their_projection():
    factor = {"prompts.source": "joint", "method.stage2.classifier_lr_factor": 30.0}
    stage = build_method(config("clip_reid", "vit_mini", factor), 3, 1).stages()[-1]
    model = build_method(config("clip_reid", "vit_mini", factor), 3, 1)
    rates = {name: group["lr"] for group in parameter_groups(model, stage.groups) for name in group["names"]}
    assert rates["prompts.context"] == rates["text_space.weight"] == pytest.approx(1.5e-4)
    assert rates["backbone.visual.patch_embed.proj.weight"] == pytest.approx(5e-6)


def test_the_official_rates_of_personvit_lag_by_an_epoch():
    options = {
        "method.mask": "none", "method.hem": False, "method.train.epochs": 120, "method.train.lr": 4e-4,
        "method.train.warmup_epochs": 20, "method.train.warmup_lr": 4e-6, "method.train.min_lr": 8e-7,
        "method.train.rate_lag": 1,
    }  # fmt: skip
    stage = build_method(config("dpm", "vit_mini", options), 3, 1).stages()[0]
    bias, weight = stage.groups[:2]
    found = [[group.lr * group.schedule(epoch) for epoch in (1, 2, 20, 21, 120)] for group in (weight, bias)]
    assert found[0] == pytest.approx([4.0e-6, 2.38e-5, 3.802e-4, 3.733e-4, 8.68e-7], rel=1e-3)
    assert found[1] == pytest.approx([4.0e-6, 4.38e-5, 7.602e-4, 7.465e-4, 9.37e-7], rel=1e-3)


def test_the_same_rates_are_a_schedule_of_the_methods_on_clip():
    official = {"schedule": "cosine", "epochs": 120, "lr": 4e-4, "warmup_epochs": 20, "rate_lag": 1, "optimizer": "sgd"}
    for method, stage in (("clip_reid", "stage2"), ("dpmpp", "train"), ("profd", "train")):
        options = {f"method.{stage}.{key}": value for key, value in official.items()} | (
            PROFD if method == "profd" else {}
        )
        if method == "profd":
            options |= {"method.train.bias_lr_factor": 2.0, "method.train.image_encoder_lr_mult": 1.0}
        last = build_method(config(method, "vit_mini", options), 3, 1).stages()[-1]
        groups = {round(group.lr, 8): group for group in last.groups}
        found = [groups[lr].lr * groups[lr].schedule(epoch) for lr in (4e-4, 8e-4) for epoch in (2, 120)]
        assert found == pytest.approx([2.38e-5, 8.68e-7, 4.38e-5, 9.37e-7], rel=1e-3), method
