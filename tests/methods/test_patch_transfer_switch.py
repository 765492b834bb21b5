"""Patch transfer switched on for methods that are not DPM: its stage, what is ignored, and that off means absent."""

import logging

import pytest
import torch

from occplug import build_method
from occplug.config import default_config
from occplug.engine import MethodEngine, seed_everything
from occplug.errors import CheckpointError, ConfigError
from occplug.losses import BatchHardTriplet, IgnoringCrossEntropy
from tests.methods.dpm_common import SIZE, Data, batch, stage, trained

CPU = torch.device("cpu")
SMALL = ["data.height", SIZE[0], "data.width", SIZE[1], "backbone.weights", "none"]
MIXED = ["method.spt", True, "method.transfer.p_mix", 1.0, "method.transfer.select", "random"]
METHODS = ("clip_reid", "dpl_reid", "ag_reid")


def config(name, *options):
    return default_config(name, "clip_vit_tiny", [*SMALL, *options])


def tiny(name, *options):
    torch.manual_seed(1)
    return build_method(config(name, *options), 5, 3)


def prepared(name, *options):
    """In eval mode, with text features, and saliency that differs from patch to patch."""
    method = tiny(name, *options).eval()
    if method.options.spt:
        torch.nn.init.normal_(method.saliency.decision.weight, std=0.3)
    method.fix_text_features(None, CPU)
    return method


@pytest.mark.parametrize("name", METHODS)
def test_the_saliency_net_trains_before_the_image_tower(name):
    method = tiny(name, "method.spt", True)
    assert [s.name for s in method.stages()] == ["stage1", "saliency", "stage2"]
    assert {key.split(".")[0] for key in trained(method, stage(method, "saliency"))} == {"saliency"}
    for other in ("stage1", "stage2"):
        assert not any(key.startswith("saliency.") for key in trained(method, stage(method, other)))
    assert [s.name for s in tiny("clip_reid", "method.spt", True, "method.prompts", False).stages()] == [
        "saliency",
        "stage2",
    ]


@torch.no_grad()
def test_losses_are_those_of_the_mixed_batch_without_the_candidates():
    method, b = prepared("clip_reid", *MIXED), batch()
    found = stage(method, "stage2").losses(b)
    transfer, labels = b["transfer"], b["pid"]
    ignored = transfer.ignored(labels)
    assert transfer.mixed.any() and (ignored >= 0).any()
    seen = method.backbone(b["img"], b["camid"], change=transfer.change(method.backbone.grid))
    plain = method.backbone(b["img"], b["camid"])
    assert not torch.allclose(seen.feature, plain.feature, atol=1e-3)
    smoothed, triplet = IgnoringCrossEntropy(0.1), BatchHardTriplet(0.3)
    scores = [method.neck(seen.feature)[1], method.neck_proj(seen.projected)[1]]
    expected = {
        "loss_id": sum(smoothed(score, labels, ignored) for score in scores),
        "loss_tri": sum(
            triplet(f, labels, transfer.ineligible(labels)) for f in (seen.last, seen.feature, seen.projected)
        ),
        "loss_i2t": smoothed(seen.projected @ method.text_features.T, labels, ignored),
    }
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5), name


@torch.no_grad()
@pytest.mark.parametrize(
    "options", [[], ["method.stage2.i2t", "fused"], ["method.stage2.i2t", "by_image"]], ids=lambda o: o[-1:] or ["dual"]
)
def test_every_text_loss_of_dpl_reid_ignores_the_candidates(options):
    """The logit of the ignored class moves no loss."""
    method, b = prepared("dpl_reid", *MIXED, *options), batch()
    b["occlusion"] = (torch.arange(8) % 2 * 255).to(torch.uint8)[:, None, None, None].expand(8, 1, *SIZE)
    before = stage(method, "stage2").losses(b)
    ignored = b["transfer"].ignored(b["pid"])
    own = method.classification
    seen = []

    def spoilt(scores, labels, transfer=None, reduction="mean"):
        seen.append(reduction)
        rows = torch.nonzero(ignored >= 0)[:, 0]
        scores = scores.clone()
        scores[rows, ignored[rows]] += 50
        return own(scores, labels, transfer, reduction)

    method.classification = spoilt
    after = stage(method, "stage2").losses(b)
    assert (ignored >= 0).any() and len(seen) >= 3 and ("none" in seen) == ("by_image" in options)
    for name, value in before.items():
        assert after[name].item() == pytest.approx(value.item(), rel=1e-4), name


@torch.no_grad()
def test_what_patch_transfer_occludes_is_occluded():
    method, b = prepared("dpl_reid", *MIXED, "method.stage2.i2t", "by_image"), batch()
    b["occlusion"] = torch.zeros(8, 1, *SIZE, dtype=torch.uint8)
    found = stage(method, "stage2").losses(b)
    mixed, ignored = b["transfer"].mixed, b["transfer"].ignored(b["pid"])
    image = method.backbone(b["img"], b["camid"], change=b["transfer"].change(method.backbone.grid)).projected
    for kind, chosen in (("occ", mixed), ("full", ~mixed)):
        texts = method.text_features_by_kind[kind]
        expected = (IgnoringCrossEntropy(0.1)(image @ texts.T, b["pid"], ignored, "none") * chosen).mean()
        assert found[f"loss_i2t_{kind}"].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", METHODS)
def test_without_probability_it_is_the_method_itself(name):
    b, without = batch(), prepared(name)
    never = prepared(name, "method.spt", True, "method.transfer.p_mix", 0.0)
    assert not never.load_state_dict(without.state_dict(), strict=False).unexpected_keys
    never.fix_text_features(None, CPU)
    one, other = (stage(m, "stage2").losses(dict(b)) for m in (without, never))
    assert all(torch.equal(one[key], other[key]) for key in one) and one.keys() == other.keys()
    assert torch.equal(without.embed(b["img"]).vector, never.embed(b["img"]).vector)
    assert not any(key.startswith("saliency.") for key in without.state_dict())


SHORT = [f"method.{name}.{key}" for name in ("stage1", "stage2", "saliency") for key in ("epochs", "warmup_epochs")]
SHORT = [item for key in SHORT for item in (key, int(key.endswith(".epochs")))]


@pytest.mark.parametrize("name", METHODS)
def test_all_stages_run_and_the_saliency_net_is_frozen_in_the_last(name, tmp_path, caplog, monkeypatch):
    options = [*MIXED, *SHORT, *(["method.stage1.occ_prob", 0.0] if name == "dpl_reid" else [])]
    method, seen = tiny(name, *options), []
    if name == "dpl_reid":  # its first stage reads images from disk to occlude them
        monkeypatch.setattr(method, "stages", lambda own=method.stages: own()[1:])

    class Spy(MethodEngine):
        def run_stage(self, *args):
            before = {key: value.clone() for key, value in method.state_dict().items()}
            super().run_stage(*args)
            changed = {key.split(".")[0] for key, v in method.state_dict().items() if not torch.equal(before[key], v)}
            seen.append((self.stage_name, "saliency" in changed, "backbone" in changed))

    seed_everything(2)
    with caplog.at_level(logging.INFO):
        Spy(config(name, *options), Data(), method, tmp_path, CPU).run_stages()
    assert seen[-2:] == [("saliency", True, False), ("stage2", False, True)]
    assert "patch transfer: of 16 samples 16 drawn" in caplog.text
    assert not method.saliency.training
    if name == "ag_reid":
        assert "noise mask otsu" in caplog.text
    if name == "clip_reid":
        again = [*options, "method.saliency.levels", [1, 2, 3, 4]]
        state = torch.load(tmp_path / "checkpoints/saliency.pth", weights_only=True)
        other = MethodEngine(config(name, *again), Data(), tiny(name, *again), tmp_path / "other", CPU)
        with pytest.raises(CheckpointError, match="was trained with method.saliency.levels"):
            other.run_stages(state, tmp_path / "checkpoints/saliency.pth")
        without = MethodEngine(config(name, *SHORT), Data(), tiny(name, *SHORT), tmp_path / "without", CPU)
        state = torch.load(tmp_path / "checkpoints/stage1.pth", weights_only=True)
        with pytest.raises(CheckpointError, match="one has method.spt True and the other has not"):
            without.run_stages(state, tmp_path / "checkpoints/stage1.pth")


@pytest.mark.parametrize("backbone", ["clip_rn50", "wgff"])
def test_a_backbone_whose_patches_cannot_be_mixed_is_refused(backbone):
    with pytest.raises(ConfigError, match=f"method.spt mixes patches, which {backbone} does not have for it"):
        default_config("clip_reid", backbone, ["method.spt", True])


def test_wrong_options_are_named_even_while_it_is_off():
    with pytest.raises(ConfigError, match="method.transfer.select is 'iou'; there are: oiou, random"):
        config("clip_reid", "method.transfer.select", "iou")
