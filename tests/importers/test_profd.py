"""Official ProFD checkpoints: what they embed to, what is read from their tensors, and what is refused."""

import pickle

import numpy as np
import pytest
import torch
from yacs.config import CfgNode

from occplug.backbones.architectures import ARCHITECTURES
from occplug.errors import CheckpointError, ConfigError
from occplug.importers import load_official
from tests.importers.official_profd import FULL, profd_state, profd_test_features

SIZE = (64, 48)
SMALL = {"width": 64, "layers": 3, "embed": 24, "heads": 4, "text": 32, "text_layers": 2, "text_heads": 2}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
ENDS = [19, 19, 22, 22, 19, 19]  # of the five parts and the whole person, with 16 learnable tokens


@pytest.fixture(autouse=True)
def small(request, monkeypatch):
    """A small tower behind the name of the full one, except where a test is about the full one."""
    if "full_size" not in request.node.name:
        vision = {"image_size": 224, "patch_size": 16, "width": 64, "layers": 3, "head_width": 16}
        sizes = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT, "quick_gelu": True}
        monkeypatch.setitem(ARCHITECTURES, "clip_vit_b16", sizes)


def load(state, **options):
    return load_official("profd", state, image_size=SIZE, **options)


def check(method, state, images, stride=16, ends=ENDS, sizes=SMALL):
    found = method.embed(images, torch.zeros(len(images), dtype=torch.long))
    for value, expected in zip(
        (found.vector, found.parts, found.visibility), profd_test_features(state, sizes, images, ends, stride)
    ):
        torch.testing.assert_close(value, expected, atol=2e-5, rtol=1e-4)
    return found


@pytest.mark.parametrize("rows, stride", [(13, 16), (16, 12)])
@pytest.mark.parametrize("shared", [False, True])
def test_it_gives_the_official_test_features(rows, stride, shared):
    state = profd_state(SMALL, rows, shared=shared)
    method = load(state)
    assert not method.training
    check(method, state, torch.randn(2, 3, *SIZE), stride)
    assert (method.num_classes, method.backbone.stride, method.num_parts) == (5, stride, 5)
    assert torch.equal(method.neck.classifier.weight, state["global_identity_classifier.classifier.weight"])


@pytest.mark.parametrize(
    "scheme, parts, ends",
    [
        ("eight", 8, [19, 19, 20, 20, 20, 20, 20, 20, 20]),
        ("four_v", 4, [19, 20, 22, 20, 20]),
        ("three_v", 3, [19, 20, 22, 20]),
        ("two_v", 2, [19, 22, 19]),
    ],
)
def test_the_grouping_is_read_from_the_prompts(scheme, parts, ends):
    state = profd_state(SMALL, 13, parts=parts, classes=7)
    method = load(state)
    assert (method.options.parts, method.num_classes) == (scheme, 7)
    check(method, state, torch.randn(1, 3, *SIZE), ends=ends)


def test_the_number_of_learnable_tokens_is_read_too():
    state = profd_state(SMALL, 13, context=4)
    check(load(state), state, torch.randn(1, 3, *SIZE), ends=[end - 12 for end in ENDS])


def official_file(path, state, **beside):
    """As the official code saves it: settings, figures and optimiser beside the tensors."""
    config = CfgNode({"model": {"name": "bpbreid", "parts": [1, 2]}, "data": CfgNode({"height": 256})})
    config.freeze()
    content = {
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "epoch": 39,
        "rank1": np.float64(0.7),
        "mAP": np.float32(0.6),
        "ssmd": float("nan"),
        "config": config,
        "optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))]).state_dict(),
        "scheduler": {"milestones": [30, 50], "last_epoch": 39},
        **beside,
    }
    torch.save(content, path)


def test_a_file_with_settings_beside_the_tensors_is_read(tmp_path):
    state = profd_state(SMALL, 13)
    path = tmp_path / "job-1_39_model.pth.tar"
    official_file(path, state)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    check(load(path), state, torch.randn(1, 3, *SIZE))
    legacy = tmp_path / "legacy.pth.tar"
    content = torch.load(path, weights_only=False)
    torch.save(content, legacy, _use_new_zipfile_serialization=False)
    check(load(legacy), state, torch.randn(1, 3, *SIZE))


class Evil:
    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("zipped", [True, False])
def test_code_beside_the_settings_is_refused_and_not_run(tmp_path, zipped):
    state, path = profd_state(SMALL, 13), tmp_path / "evil.pth.tar"
    evil = Evil()
    evil.path = str(tmp_path / "was_run")
    official_file(path, state, extra=evil)
    if not zipped:
        content = {"state_dict": state, "config": CfgNode({"a": 1}), "extra": evil}
        torch.save(content, path, _use_new_zipfile_serialization=False)
    (tmp_path / "was_run").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=r"evil.pth.tar: refused: .* would run code .*io.open"):
        load(path)
    assert not (tmp_path / "was_run").exists()


def test_leftovers_are_skipped_and_named_in_the_log(caplog):
    caplog.set_level("INFO")
    load(profd_state(SMALL, 13))
    used = caplog.text.split("not used: ")[1]
    for name in ("gamma", "cv_embed", "total_ops", "IAI.total_params", "DAI.0.weight", "seg_classifier.weight"):
        assert name in used
    assert "parts_feature_decoder.decoder.1.self_attn.in_proj_weight" in used
    assert "pose_prompt_learner.ZS_image_encoder.conv1.weight" in used


def test_all_that_does_not_fit_is_listed_by_its_official_name():
    state = profd_state(SMALL, 13)
    state["IAI.2.weight"] = torch.zeros(24)
    state["concat_parts_identity_classifier.bn.weight"] = torch.zeros(24)
    for name in ("background_cls", "parts_identity_classifier.4.bn.running_var", "IAI.0.bias"):
        del state[name]
    state |= {"parts_feature_decoder.decoder.2.norm2.weight": torch.zeros(24), "logit_scale": torch.zeros(())}
    with pytest.raises(CheckpointError) as caught:
        load(state)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the state dict does not fit ProFD on ViT-B/16"
    assert set(lines[1].removeprefix("  wrong shape: ").split("; ")) == {
        "IAI.2.weight is [24], expected [1, 24]",
        "concat_parts_identity_classifier.bn.weight is [24], expected [120]",
    }
    assert set(lines[2].removeprefix("  missing: ").split(", ")) == {
        "background_cls",
        "parts_identity_classifier.4.bn.running_var",
        "IAI.0.bias",
    }
    assert lines[3] == "  unknown: parts_feature_decoder.decoder.2.norm2.weight, logit_scale"


def test_a_grouping_without_prompts_is_named():
    with pytest.raises(CheckpointError) as caught:
        load(profd_state(SMALL, 13, parts=6))
    assert str(caught.value) == (
        "the state dict: its prompts have 7 rows, which no part grouping has; the groupings with prompts have "
        "6 (five_v), 9 (eight), 5 (four_v), 4 (three_v), 3 (two_v)"
    )


def test_another_image_size_is_found_out():
    with pytest.raises(CheckpointError, match="129 position rows fit no stride at 64x48; .* 256x128 .stride 16"):
        load(profd_state(SMALL, 129))


def test_the_neck_changes_nothing_and_must_be_a_neck():
    state, images = profd_state(SMALL, 13), torch.randn(1, 3, *SIZE)
    assert torch.equal(load(state, neck="after").embed(images).pack(), load(state).embed(images).pack())
    with pytest.raises(ConfigError, match="neck is 'bn'; there are: before, after"):
        load(state, neck="bn")


def test_every_single_tensor_is_needed_and_its_shape_checked():
    from occplug.importers import profd
    from occplug.importers.report import load_renamed

    state = {n: v for n, v in profd_state(SMALL, 13).items() if not profd.LEFTOVERS.fullmatch(n)}
    method = load(state)
    for name, value in state.items():
        short = {other: tensor for other, tensor in state.items() if other != name}
        for broken, complaint in ((short, f"missing: {name}$"), ({**short, name: value[None]}, f"shape: {name} is")):
            with pytest.raises(CheckpointError, match=complaint):
                load_renamed(method, broken, profd.TABLE, "file", "model", profd._composed(method))


def test_full_size():
    state = profd_state(FULL, 211, classes=10)
    method = load_official("profd", state)
    with torch.no_grad():
        check(method, state, torch.randn(1, 3, 256, 128), stride=12, sizes=FULL)
    own = sum(p.numel() for p in method.parameters())
    assert 137e6 < own < 139e6
