"""Towers by timm's names: features and tokens as timm's own, at any size, and what each kind refuses."""

import pytest
import timm
import torch

from occplug.backbones import load_initial
from occplug.backbones.position import resize_positions
from occplug.config import default_config
from occplug.errors import ConfigError
from occplug.registry import BACKBONES, build, tower_gives

# name, image size, prefix, patch
VITS = [
    ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", (64, 32), 1, 16),
    ("vit_small_patch14_reg4_dinov2.lvd142m", (56, 28), 5, 14),
]
EVAS = [("eva02_tiny_patch14_224.mim_in22k", (56, 28), 1, 14), ("vit_small_patch16_dinov3.lvd1689m", (64, 32), 5, 16)]


def tower(name, size, patch, **options):
    torch.manual_seed(0)
    return build(BACKBONES, f"timm:{name}", image_size=size, stride=patch, **options).eval()


@pytest.mark.parametrize("name, size, prefix, patch", VITS + EVAS)
def test_features_and_tokens_are_timms(name, size, prefix, patch):
    torch.manual_seed(1)
    theirs = timm.create_model(name, pretrained=False, num_classes=0, img_size=size).eval()
    ours = tower(name, size, patch)
    ours.visual.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        last, (level,) = theirs.forward_intermediates(images, indices=[2], return_prefix_tokens=True, output_fmt="NLC")
        seen = ours(images, tokens=True, blocks=[3])
        alone = ours(images)
    last = getattr(theirs, ours.final_norm)(last) if ours.final_norm == "fc_norm" else last
    torch.testing.assert_close(seen.feature, last[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.feature, last[:, 0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen.tokens, last[:, prefix:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen.blocks[3], torch.cat(level[::-1], 1), atol=1e-5, rtol=1e-4)
    zero = ours(images, edits={0: torch.zeros_like}, blocks=[1])
    assert ours.num_prefix == prefix and zero.blocks[1].shape == seen.blocks[3].shape
    assert tower_gives(f"timm:{name}") >= {"patches", "levels", "tokens"}


def test_class_scores_are_those_of_the_last_block_without_the_prefix():
    for name, size, prefix, patch in VITS:
        ours, images = tower(name, size, patch), torch.randn(1, 3, *size)
        with torch.no_grad():
            seen = ours(images, class_scores=True, attention=[ours.depth])
        weights = seen.attention[ours.depth][:, :, 0, prefix:]
        torch.testing.assert_close(seen.class_scores.softmax(-1), weights / weights.sum(-1, keepdim=True))


def test_stored_positions_are_fitted_bilinearly_and_patches_may_overlap():
    name = "vit_tiny_patch16_224"
    state = timm.create_model(name, pretrained=False, num_classes=5).state_dict()
    ours = tower(name, (64, 32), 8)
    load_initial(state, ours)
    assert ours.grid == (7, 3)
    torch.testing.assert_close(ours.visual.pos_embed[0], resize_positions(state["pos_embed"][0], (14, 14), (7, 3)))


def test_a_model_without_class_token_gives_the_mean_of_its_patches():
    name = "vit_base_patch16_siglip_224.v2_webli"
    assert "class scores" not in tower_gives(f"timm:{name}")
    ours = tower("vit_wee_patch16_reg1_gap_256.sbb_in1k", (64, 32), 16)
    seen = ours(torch.randn(1, 3, 64, 32), tokens=True)
    torch.testing.assert_close(seen.feature, seen.tokens.mean(1), atol=1e-5, rtol=1e-4)


def test_other_models_give_their_feature_alone():
    ours = tower("convnext_atto.d2_in1k", (64, 32), 16)
    images = torch.randn(1, 3, 64, 32)
    torch.testing.assert_close(ours(images).feature, ours.visual(images))
    assert tower_gives("timm:convnext_atto.d2_in1k") == frozenset() and ours.grid == (2, 1)
    with pytest.raises(ConfigError, match=r"method\.mask is 'proto_pre', which needs outputs of several blocks"):
        default_config("dpm", "timm:convnext_atto.d2_in1k", ["method.hem", False])


@pytest.mark.parametrize("name", ["vit_dwee_patch16_reg1_gap_256.sbb_nadamuon_in1k", "vit_small_patch16_18x2_224"])
def test_attention_and_scores_are_those_of_plain_blocks_alone(name):
    """Differential attention has two halves a head, and parallel blocks have two attentions: neither is one map."""
    assert not tower_gives(f"timm:{name}") & {"class scores"}
    assert not tower(name, (64, 32), 16).gives_attention


def test_patches_that_another_network_makes_are_no_patches_of_pixels():
    assert tower_gives("timm:vit_small_r26_s32_224") == frozenset()


def test_models_without_drop_path_are_taken_too():
    ours = tower("vgg11", (64, 32), 16)
    assert ours(torch.randn(1, 3, 64, 32)).feature.shape[1] == ours.widths[1]


def test_what_a_model_does_not_allow_is_refused():
    with pytest.raises(ConfigError, match="multiples of 14, e.g. 252 and 126"):
        tower("eva02_tiny_patch14_224.mim_in22k", (256, 128), 14)
    with pytest.raises(ConfigError, match="rotary positions"):
        tower("eva02_tiny_patch14_224.mim_in22k", (56, 28), 12)
    with pytest.raises(ConfigError, match="timm does not have; near: "):
        default_config("dpm", "timm:vit_base_patch17_224")
    with pytest.raises(ConfigError, match=r"method\.hem is True, which needs scores of a class token"):
        default_config("dpm", "timm:vit_small_patch16_dinov3.lvd1689m")
    cfg = default_config("dpm", "timm:vit_small_patch16_224.dino")
    assert cfg.data.norm_mean == [0.485, 0.456, 0.406] and cfg.backbone.weights == "timm"
