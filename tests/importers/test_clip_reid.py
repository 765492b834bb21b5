"""Official CLIP-ReID checkpoints: what they embed to, what is read from their tensors, and what is refused."""

import pytest
import torch

from occplug.backbones.architectures import ARCHITECTURES
from occplug.embedding import Embedding
from occplug.errors import CheckpointError, ConfigError
from occplug.importers import SOURCES, load_official
from tests.importers.official import (
    FULL_RN50,
    FULL_VIT,
    clip_reid_feature,
    clip_reid_state,
    clip_reid_text_features,
)

SIZE = (64, 48)
VIT = {"width": 64, "layers": 3, "embed": 24, "heads": 4, "text": 32, "text_layers": 2}
RN50 = {"width": 8, "layers": (1, 2, 1, 2), "embed": 24, "heads": 4, "text": 32, "text_layers": 2}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


@pytest.fixture(autouse=True)
def small(request, monkeypatch):
    """Small towers behind the names of the full ones, except where a test is about the full ones."""
    if "full_size" in request.node.name:
        return
    vit = {"image_size": 224, "patch_size": 16, "width": 64, "layers": 3, "head_width": 16}
    resnet = {"image_size": 224, "width": 8, "layers": [1, 2, 1, 2], "head_width": 64}
    for name, vision in (("clip_vit_b16", vit), ("clip_rn50", resnet)):
        sizes = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT, "quick_gelu": True}
        monkeypatch.setitem(ARCHITECTURES, name, sizes)


def load(state, **options):
    return load_official("clip_reid", state, image_size=SIZE, **options)


def close(found, expected):
    assert isinstance(found, Embedding) and found.vector.dtype == torch.float32
    torch.testing.assert_close(found.vector, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("neck", ["before", "after"])
@pytest.mark.parametrize("prompts", [True, False])
@pytest.mark.parametrize("rows, stride, cameras", [(13, 16, 0), (16, 12, 3)])
def test_vit_gives_the_official_feature(neck, prompts, rows, stride, cameras):
    state = clip_reid_state(VIT, rows, cameras=cameras, prompts=prompts)
    method = load(state, neck=neck)
    images, camids = torch.randn(2, 3, *SIZE), torch.tensor([2, 0])
    assert not method.training
    close(method.embed(images, camids), clip_reid_feature(state, VIT, images, stride, camids, neck))
    close(method.embed(images), clip_reid_feature(state, VIT, images, stride, None, neck))
    assert (method.num_classes, method.backbone.stride, hasattr(method, "prompts")) == (5, stride, prompts)


@pytest.mark.parametrize("neck", ["before", "after"])
@pytest.mark.parametrize("prompts, cameras", [(True, 0), (False, 6)])
def test_rn50_gives_the_official_feature(neck, prompts, cameras, caplog):
    caplog.set_level("INFO")
    images = torch.randn(2, 3, *SIZE)
    state = clip_reid_state(RN50, 13, cameras=cameras, prompts=prompts)
    method = load(state, neck=neck)
    close(method.embed(images, torch.tensor([0, 1])), clip_reid_feature(state, RN50, images, neck=neck))
    assert ("not used: cv_embed" in caplog.text) == (cameras > 0)


@pytest.mark.parametrize("learnable", [4, 1, 9])
def test_the_text_side_gives_the_official_text_features(learnable):
    state = clip_reid_state(VIT, 13, classes=7, learnable=learnable)
    method = load(state)
    with torch.no_grad():
        features = method.encode_prompts(method.prompts, torch.arange(7))
    torch.testing.assert_close(features, clip_reid_text_features(state, 2), atol=1e-5, rtol=0)
    assert torch.equal(method.neck.classifier.weight, state["classifier.weight"])
    assert torch.equal(method.neck_proj.classifier.weight, state["classifier_proj.weight"])


def test_a_file_saved_from_data_parallel_is_read(tmp_path):
    state = clip_reid_state(VIT, 13)
    torch.save({f"module.{name}": value for name, value in state.items()}, tmp_path / "ViT-B-16_60.pth")
    images = torch.randn(1, 3, *SIZE)
    close(load(tmp_path / "ViT-B-16_60.pth").embed(images), clip_reid_feature(state, VIT, images))
    close(load(str(tmp_path / "ViT-B-16_60.pth")).embed(images), clip_reid_feature(state, VIT, images))


def test_all_that_does_not_fit_is_listed_by_its_official_name():
    state = clip_reid_state(VIT, 13, cameras=2)
    state["image_encoder.conv1.weight"] = torch.zeros(64, 3, 8, 8)
    state["classifier_proj.weight"] = torch.zeros(1, 24)  # the official loader would broadcast it
    state["prompt_learner.token_suffix"] = torch.zeros(1, 67, 32)
    for name in ("bottleneck.running_var", "text_encoder.ln_final.bias", "prompt_learner.token_prefix"):
        del state[name]
    state |= {"view_embed": torch.zeros(1), "image_encoder.transformer.extra": torch.zeros(2)}
    with pytest.raises(CheckpointError) as caught:
        load(state)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the state dict does not fit CLIP-ReID on ViT-B/16"
    assert set(lines[1].removeprefix("  wrong shape: ").split("; ")) == {
        "image_encoder.conv1.weight is [64, 3, 8, 8], expected [64, 3, 16, 16]",
        "classifier_proj.weight is [1, 24], expected [5, 24]",
        "prompt_learner.token_suffix is [1, 67, 32], expected [1, 68, 32]",
    }
    assert set(lines[2].removeprefix("  missing: ").split(", ")) == {
        "bottleneck.running_var",
        "text_encoder.ln_final.bias",
        "prompt_learner.token_prefix",
    }
    assert lines[3] == "  unknown: view_embed, image_encoder.transformer.extra"


@pytest.mark.parametrize("sizes", [VIT, RN50], ids=["vit", "rn50"])
def test_every_single_tensor_is_needed_and_its_shape_checked(sizes):
    """One method is built, then each tensor in turn is left out or reshaped."""
    from occplug.importers import clip_reid
    from occplug.importers.report import load_renamed

    state = clip_reid_state(sizes, 13)
    method = load(state)
    composed = {"prompts.template": clip_reid._template(method)}
    for name, value in state.items():
        short = {other: tensor for other, tensor in state.items() if other != name}
        for broken, complaint in (
            (short, f"missing: {name}$"),
            ({**short, name: value[None]}, f"wrong shape: {name} is"),
        ):
            with pytest.raises(CheckpointError, match=complaint):
                load_renamed(method, broken, clip_reid.TABLE, "file", "model", composed)


def test_another_image_size_is_found_out():
    with pytest.raises(CheckpointError) as caught:
        load_official("clip_reid", clip_reid_state(VIT, 193))
    message = str(caught.value)
    assert "image_encoder.positional_embedding is [193, 64], expected [129, 64]" in message
    assert "193 position rows fit no stride at 256x128; pass the image_size of training: 384x128 (stride 16)" in message


def test_camera_count_must_agree_with_the_file():
    state = clip_reid_state(VIT, 13, cameras=6)
    assert len(load(state, num_cameras=6).backbone.camera_embedding) == 6
    with pytest.raises(CheckpointError, match=r"cv_embed is \[6, 64\], expected \[8, 64\]"):
        load(state, num_cameras=8)
    assert load(clip_reid_state(VIT, 13), num_cameras=8).backbone.camera_embedding is None


def test_wrong_arguments_are_errors():
    with pytest.raises(ConfigError, match="^neck is 'between'; there are: before, after"):
        load(clip_reid_state(VIT, 13, prompts=False), neck="between")
    with pytest.raises(ConfigError) as caught:
        load_official("clip_ried", {})
    assert str(caught.value) == (
        "no source of checkpoints is called 'clip_ried' (did you mean 'clip_reid'?); there are: "
        f"{', '.join(SOURCES)}, torchreid:<model name>"
    )


def test_full_size_vit_with_cameras_and_overlap():
    state = clip_reid_state(FULL_VIT, 211, cameras=8)
    assert len(state) == 316
    method = load_official("clip_reid", state)
    images, camids = torch.randn(1, 3, 256, 128), torch.tensor([7])
    with torch.no_grad():
        close(method.embed(images, camids), clip_reid_feature(state, FULL_VIT, images, 12, camids))


def test_full_size_rn50():
    state = clip_reid_state(FULL_RN50, 129)
    assert len(state) == 502
    method = load_official("clip_reid", state)
    images = torch.randn(1, 3, 256, 128)
    with torch.no_grad():
        close(method.embed(images), clip_reid_feature(state, FULL_RN50, images))
