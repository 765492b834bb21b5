"""The ViT against a plain reading of the formulas, level by level."""

import pytest
import torch

from occplug.backbones import CLIPViT, architecture
from occplug.backbones.weights import fit_clip
from occplug.errors import ConfigError, DataError
from occplug.registry import BACKBONES, build
from tests import clip_reference as reference
from tests.backbones.small import HEADS, SIZE, VIT, vit_state


def towers(stride=16, num_cameras=0, coefficient=1.0):
    """Our tower with random weights, and the state dict with positions of its grid."""
    tower = CLIPViT(VIT, SIZE, stride, num_cameras, coefficient).eval()
    state = vit_state()
    fit_clip(state, "test", tower)
    fitted = reference.resize(state["visual.positional_embedding"], (5, 5), tower.grid)
    return tower, {**state, "visual.positional_embedding": fitted}


@pytest.mark.parametrize("stride", [16, 12])
def test_feature_levels_are_those_of_the_formulas(stride):
    tower, state = towers(stride)
    images = torch.randn(3, 3, *SIZE)
    streams, y, z, _ = reference.vit(state, images, HEADS, stride)
    seen = tower(images)
    assert tower.grid == seen.grid == {16: (4, 3), 12: (5, 3)}[stride]
    torch.testing.assert_close(seen.last, streams[3][:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.feature, y[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.projected, z[:, 0], atol=1e-5, rtol=0)
    assert seen.tokens is None and seen.projected_tokens is None
    assert tower.widths == (seen.last.shape[1], seen.feature.shape[1], seen.projected.shape[1]) == (64, 64, 24)


def test_tokens_blocks_and_attention_are_those_of_the_formulas():
    tower, state = towers()
    images = torch.randn(2, 3, *SIZE)
    streams, y, z, weights = reference.vit(state, images, HEADS, 16)
    seen = tower(images, tokens=True, blocks=(1, 3, 4), attention=(2, 4))
    torch.testing.assert_close(seen.tokens, y[:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(seen.projected_tokens, z[:, 1:], atol=1e-5, rtol=0)
    assert sorted(seen.blocks) == [1, 3, 4] and sorted(seen.attention) == [2, 4]
    for number, stream in seen.blocks.items():
        torch.testing.assert_close(stream, streams[number], atol=1e-5, rtol=0)
    for number, maps in seen.attention.items():
        assert maps.shape == (2, HEADS, 13, 13)
        torch.testing.assert_close(maps, weights[number - 1], atol=1e-6, rtol=0)


def test_the_class_row_alone_has_the_values_and_gradients_of_the_whole_last_block():
    tower, _ = towers(stride=12, num_cameras=2)
    images, camids = torch.randn(2, 3, *SIZE), torch.tensor([1, 0])
    results = []
    for tokens in (False, True):
        tower.zero_grad()
        seen = tower(images, camids, tokens=tokens)
        (seen.last.sin().sum() + seen.feature.cos().sum() + seen.projected.sin().sum()).backward()
        gradients = {name: p.grad.clone() for name, p in tower.named_parameters()}
        results.append((seen.last, seen.feature, seen.projected, gradients))
    for ours, whole in zip(results[0][:3], results[1][:3]):
        torch.testing.assert_close(
            ours, whole, atol=1e-6, rtol=3e-6
        )  # a few roundings of float32; kernels of torch versions differ
    for name, gradient in results[1][3].items():
        torch.testing.assert_close(results[0][3][name], gradient, atol=2e-5, rtol=1e-4, msg=name)


def test_blocks_can_be_run_one_at_a_time():
    tower, _ = towers()
    images = torch.randn(2, 3, *SIZE)
    x = tower.run_blocks(tower.embed_tokens(images), 0, 1)
    previous = tower.run_blocks(x, 1, 3)
    parts, whole = tower.finish(previous, tower.run_blocks(previous, 3, 4), tokens=True), tower(images, tokens=True)
    for name in ("last", "feature", "projected", "tokens", "projected_tokens"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-6, rtol=0)


def test_the_camera_is_added_to_the_class_token_before_the_position():
    tower, state = towers(num_cameras=3, coefficient=2.5)
    images, camids = torch.randn(3, 3, *SIZE), torch.tensor([2, 0, 2])
    _, y, _, _ = reference.vit(state, images, HEADS, 16, 2.5 * tower.camera_embedding[camids])
    torch.testing.assert_close(tower(images, camids).feature, y[:, 0], atol=1e-5, rtol=0)
    _, without, _, _ = reference.vit(state, images, HEADS, 16)
    torch.testing.assert_close(tower(images).feature, without[:, 0], atol=1e-5, rtol=0)
    assert (y - without).abs().max() > 1e-3


@pytest.mark.parametrize("camera", [3, -1])
def test_a_camera_without_a_row_is_an_error(camera):
    tower, _ = towers(num_cameras=3)
    with pytest.raises(DataError, match=rf"camera {camera} \(counted from 0\) is none of the 3 cameras"):
        tower(torch.randn(2, 3, *SIZE), torch.tensor([0, camera]))


def test_camera_ids_mean_nothing_without_a_camera_embedding():
    tower, _ = towers()
    images = torch.randn(2, 3, *SIZE)
    assert torch.equal(tower(images, torch.tensor([9, 40])).feature, tower(images).feature)
    assert not any("camera" in name for name in tower.state_dict())


def test_one_image_gives_what_it_gives_in_a_batch():
    tower, _ = towers()
    images = torch.randn(3, 3, *SIZE)
    torch.testing.assert_close(tower(images[1:2]).feature, tower(images).feature[1:2], atol=1e-6, rtol=0)


def test_camera_embedding_starts_small():
    values = CLIPViT(VIT, SIZE, num_cameras=200).camera_embedding.detach()
    assert values.shape == (200, 64) and abs(values.std() - 0.02) < 1e-3 and values.abs().max() < 2.0


def test_wrong_use_is_an_error():
    with pytest.raises(
        ConfigError, match="patches of 16 pixels need a stride from 1 to 16, not 17 .backbone.stride; of a saliency"
    ):
        CLIPViT(VIT, SIZE, stride=17)
    with pytest.raises(ConfigError, match="data.height x data.width is 64x8, smaller than a patch of 16 pixels"):
        CLIPViT(VIT, (64, 8))
    tower, _ = towers()
    with pytest.raises(ValueError, match="blocks are numbered 1 to 4, asked for \\[0\\]"):
        tower(torch.randn(1, 3, *SIZE), blocks=[0])
    with pytest.raises(ValueError, match="images are \\[B, 3, 64, 48\\], got \\[1, 3, 48, 64\\]"):
        tower(torch.randn(1, 3, 48, 64))


def test_unknown_architecture_names_the_nearest():
    with pytest.raises(ConfigError, match="no CLIP is called 'clip_vit_b32' \\(did you mean 'clip_vit_b16'\\?\\)"):
        architecture("clip_vit_b32")


def test_an_architecture_is_a_copy():
    architecture("clip_vit_b16")["vision_cfg"]["width"] = 1
    assert architecture("clip_vit_b16")["vision_cfg"]["width"] == 768


@pytest.mark.parametrize("stride, rows", [(16, 129), (12, 211)])
def test_full_size_has_the_published_names_and_shapes(stride, rows):
    with torch.device("meta"):
        tower = build(BACKBONES, "clip_vit_b16", stride=stride, num_cameras=8)
    assert {name: tuple(value.shape) for name, value in tower.state_dict().items()} == {
        **reference.vit_shapes(rows),
        "camera_embedding": (8, 768),
    }
    assert tower.widths == (768, 768, 512)


def test_full_size_features_are_those_of_the_formulas():
    state = reference.random_state(reference.vit_shapes(197))
    tower = build(BACKBONES, "clip_vit_b16", stride=12).eval()
    fit_clip(state, "test", tower)
    images = torch.randn(1, 3, 256, 128)
    state["visual.positional_embedding"] = reference.resize(state["visual.positional_embedding"], (14, 14), (21, 10))
    with torch.no_grad():
        streams, y, z, _ = reference.vit(state, images, 12, 12)
        seen = tower(images)
    torch.testing.assert_close(seen.last, streams[11][:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.feature, y[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.projected, z[:, 0], atol=1e-5, rtol=1e-5)
