"""CLIP files in OpenAI's layout: sizes from the tensors, embeddings as `encode_image` gives them."""

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

from occplug.errors import CheckpointError, ConfigError
from occplug.importers import load_official
from tests import clip_reference as reference
from tests.backbones.test_weights import save_archive

TEXT = {"context_length": 20, "vocab_size": 50, "width": 64, "heads": 1, "layers": 2}
VIT = {"image_size": 80, "patch_size": 16, "width": 128, "layers": 3}
RESNET = {"image_size": 96, "width": 8, "layers": [1, 1, 1, 1]}


def clip(vision):
    """open_clip's own model, every parameter away from its neutral value."""
    model = CLIP(24, CLIPVisionCfg(**vision), CLIPTextCfg(**TEXT), quick_gelu=True).eval()
    state = model.state_dict()
    drawn = reference.random_state({name: value.shape for name, value in state.items()})
    model.load_state_dict(drawn)
    return model, drawn


@pytest.mark.parametrize("vision, size", [(VIT, (80, 80)), (RESNET, (96, 96))], ids=["vit", "resnet"])
def test_at_the_files_own_size_it_is_encode_image(vision, size, tmp_path):
    model, state = clip(vision)
    path = tmp_path / "clip.pt"
    save_archive(state, path)
    images = torch.randn(2, 3, *size)
    found = load_official("openai_clip", path, image_size=size)
    assert not found.training
    embedding = found.embed(images, camids=torch.tensor([1, 2]))
    assert embedding.vector.dtype == torch.float32
    torch.testing.assert_close(embedding.vector, model.encode_image(images), atol=1e-5, rtol=1e-5)


def test_at_another_size_positions_are_resized_bilinearly():
    _, state = clip(VIT)
    images = torch.randn(2, 3, 256, 128)
    found = load_official("openai_clip", {f"module.{name}": value for name, value in state.items()})
    state["visual.positional_embedding"] = reference.resize(state["visual.positional_embedding"], (5, 5), (16, 8))
    _, _, z, _ = reference.vit(state, images, 2, 16)
    torch.testing.assert_close(found.embed(images).vector, z[:, 0], atol=1e-5, rtol=1e-5)


def test_a_resnet_at_another_size_has_last_stride_1():
    _, state = clip(RESNET)
    images, name = torch.randn(2, 3, 64, 48), "visual.attnpool.positional_embedding"
    found = load_official("openai_clip", state, image_size=(64, 48))
    state[name] = reference.resize(state[name], (3, 3), (4, 3))
    _, pooled = reference.resnet(state, images, 4)
    torch.testing.assert_close(found.embed(images).vector, pooled[:, 0], atol=1e-5, rtol=1e-5)


def test_images_alone_are_enough_but_half_a_text_side_is_not():
    _, state = clip(VIT)
    visual = {name: value for name, value in state.items() if name.startswith("visual.")}
    assert load_official("openai_clip", visual, image_size=(80, 80)).backbone.widths == (128, 128, 24)
    with pytest.raises(CheckpointError, match="missing: .*transformer.resblocks.0.ln_1.weight"):
        load_official("openai_clip", {**visual, "text_projection": state["text_projection"]}, image_size=(80, 80))


@pytest.mark.parametrize("vision", [VIT, RESNET], ids=["vit", "resnet"])
def test_every_single_tensor_is_needed_and_its_shape_checked(vision):
    """Half of the tensors are left out, the other half reshaped, one at a time."""
    _, state = clip(vision)
    own = (vision["image_size"],) * 2
    for number, (name, value) in enumerate(state.items()):
        broken, complaint = dict(state), f"wrong shape: (.*; )?{name} is"
        if number % 2 and not name.endswith("num_batches_tracked"):  # old files lack these
            del broken[name]
            complaint = f"missing: (.*, )?{name}(,|$)"
        else:
            broken[name] = value[None]
        with pytest.raises(CheckpointError, match=complaint):
            load_official("openai_clip", broken, image_size=own)


def test_unknown_tensors_are_listed():
    _, state = clip(VIT)
    state |= {"visual.extra": torch.zeros(1), "logit_bias": torch.zeros(())}
    with pytest.raises(CheckpointError, match="unknown: visual.extra, logit_bias"):
        load_official("openai_clip", state)


def test_the_distance_is_between_unit_vectors():
    found = load_official("openai_clip", clip(VIT)[1], image_size=(80, 80))
    embedding = found.embed(torch.randn(3, 3, 80, 80))
    unit = embedding.vector / embedding.vector.norm(dim=1, keepdim=True)
    expected = ((unit[:, None] - unit[None]) ** 2).sum(2)
    torch.testing.assert_close(found.distance(embedding, embedding), expected, atol=1e-5, rtol=0)


def test_a_clip_has_no_neck():
    with pytest.raises(ConfigError, match="neck is 'after', but a CLIP has no neck; use 'before'"):
        load_official("openai_clip", {}, neck="after")
