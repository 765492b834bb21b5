"""The ResNet against a plain reading of the formulas, level by level."""

import pytest
import torch

from occplug.backbones import CLIPResNet
from occplug.backbones.weights import fit_clip
from occplug.errors import ConfigError
from occplug.registry import BACKBONES, build
from tests import clip_reference as reference
from tests.backbones.small import HEADS, RESNET, SIZE, resnet_state

NAME = "visual.attnpool.positional_embedding"


def towers(stride=16):
    tower = CLIPResNet(RESNET, SIZE, stride).eval()
    state = resnet_state()
    fit_clip(state, "test", tower)
    return tower, {**state, NAME: reference.resize(state[NAME], (3, 3), tower.grid)}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("stride", [16, 32])
def test_feature_levels_are_those_of_the_formulas(stride, training):
    tower, state = towers(stride)
    images = torch.randn(3, 3, *SIZE)
    maps, pooled = reference.resnet(state, images, HEADS, last_stride=stride // 16, training=training)
    seen = tower.train(training)(images)
    assert tower.grid == seen.grid == tuple(maps[3].shape[2:]) == {16: (4, 3), 32: (2, 1)}[stride]
    close = {"atol": 1e-5, "rtol": 1e-4 if training else 1e-5}  # batch statistics of 6 cells amplify rounding
    torch.testing.assert_close(seen.last, maps[2].mean((2, 3)), **close)
    torch.testing.assert_close(seen.feature, maps[3].mean((2, 3)), **close)
    torch.testing.assert_close(seen.projected, pooled[:, 0], **close)
    assert tower.widths == (seen.last.shape[1], seen.feature.shape[1], seen.projected.shape[1]) == (128, 256, 24)


def test_cells_and_layers_are_those_of_the_formulas():
    tower, state = towers()
    images = torch.randn(2, 3, *SIZE)
    maps, pooled = reference.resnet(state, images, HEADS)
    seen = tower(images, tokens=True, blocks=(2, 4))
    torch.testing.assert_close(seen.tokens, maps[3].flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.projected_tokens, pooled[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.projected, tower(images).projected, atol=1e-6, rtol=0)
    assert sorted(seen.blocks) == [2, 4]
    torch.testing.assert_close(seen.blocks[2], maps[1], atol=1e-5, rtol=1e-5)


def test_every_parameter_gets_a_gradient():
    tower, _ = towers()
    seen = tower.train()(torch.randn(2, 3, *SIZE))
    (seen.last.sum() + seen.feature.sum() + seen.projected.sum()).backward()
    assert [name for name, p in tower.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("size", [(64, 48), (65, 47), (70, 33)])
def test_the_grid_is_that_of_the_last_map(size):
    tower = CLIPResNet(RESNET, size).eval()
    assert tower(torch.randn(1, 3, *size)).tokens is None
    assert tower(torch.randn(1, 3, *size), tokens=True).tokens.shape[1] == tower.grid[0] * tower.grid[1]


def test_wrong_use_is_an_error():
    with pytest.raises(ConfigError, match="backbone.stride is 12; a CLIP ResNet has 16"):
        CLIPResNet(RESNET, SIZE, stride=12)
    with pytest.raises(ConfigError, match="backbone.sie_camera is True, but the camera embedding needs"):
        CLIPResNet(RESNET, SIZE, num_cameras=3)
    with pytest.raises(ConfigError, match="data.height x data.width is 64x8, smaller than a cell of 16 pixels"):
        CLIPResNet(RESNET, (64, 8))
    tower, _ = towers()
    with pytest.raises(ValueError, match="a ResNet has layers 1 to 4 and no attention blocks, asked for \\[5\\]"):
        tower(torch.randn(1, 3, *SIZE), blocks=[5])
    with pytest.raises(ValueError, match="images are \\[B, 3, 64, 48\\]"):
        tower(torch.randn(1, 3, 48, 64))


def test_full_size_has_the_published_names_and_shapes():
    with torch.device("meta"):
        tower = build(BACKBONES, "clip_rn50")
    shapes = {name: tuple(value.shape) for name, value in tower.state_dict().items()}
    assert shapes == reference.resnet_shapes(129)
    assert tower.widths == (1024, 2048, 1024) and tower.grid == (16, 8)
    assert tower.visual.attnpool.num_heads == 32
