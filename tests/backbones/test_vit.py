"""The ImageNet ViT against the written formulas, and its initial weights."""

import pytest
import torch

from occplug.backbones import ViT, load_initial
from occplug.errors import CheckpointError, ConfigError, DataError
from occplug.registry import BACKBONES, build
from tests import clip_reference, vit_reference

SMALL = {"image_size": 80, "patch_size": 16, "width": 64, "layers": 3, "heads": 4}
SIZE = (64, 48)


def tower(stride=16, state=None, **options):
    vit = ViT(SMALL, SIZE, stride, **options).eval()
    if state is not None:
        vit.visual.load_state_dict(state)
    return vit


def small_state(rows=13):
    return vit_reference.vit_state(rows, width=64, layers=3)


@pytest.mark.parametrize("stride, rows", [(16, 13), (12, 16)])
def test_features_blocks_and_scores_are_those_of_the_formulas(stride, rows):
    state = small_state(rows)
    vit, images = tower(stride, state), torch.randn(2, 3, *SIZE)
    streams, feature, scores = vit_reference.vit(state, images, 4, stride)
    seen = vit(images, tokens=True, blocks=[1, 3], attention=[2], class_scores=True)
    close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)  # noqa: E731
    close(seen.feature, feature)
    close(seen.last, streams[2][:, 0])
    close(seen.blocks[1], streams[1])
    close(seen.blocks[3], streams[3])
    close(seen.attention[2], scores[1].softmax(-1))
    close(seen.class_scores, scores[2][:, :, 0, 1:])  # before the softmax, without the class token itself
    close(vit(images).feature, feature)  # the class row alone
    close(vit(images, class_scores=True).class_scores, seen.class_scores)
    assert seen.projected is not None and torch.equal(seen.projected, seen.feature)


def test_the_camera_is_added_to_every_token_with_its_coefficient():
    vit, images = tower(state=small_state(), num_cameras=3, sie_coefficient=2.5), torch.randn(2, 3, *SIZE)
    camids = torch.tensor([2, 0])
    streams, feature, _ = vit_reference.vit(small_state(), images, 4, 16, 2.5 * vit.camera_embedding[camids])
    torch.testing.assert_close(vit.embed_tokens(images, camids), streams[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(vit(images, camids).feature, feature, atol=1e-5, rtol=1e-5)
    with pytest.raises(DataError, match="camera 3 .* none of the 3 cameras"):
        vit(images, torch.tensor([0, 3]))


def test_under_autocast_the_residual_stream_stays_float32():
    """As in the official code, where class token, positions and cameras promote the sum."""
    vit, images = tower(num_cameras=3), torch.randn(2, 3, *SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        seen = vit(images, torch.tensor([2, 0]), blocks=[1, 3])
        row = vit(images).feature
    assert {seen.blocks[1].dtype, seen.blocks[3].dtype, seen.last.dtype, row.dtype} == {torch.float32}


def test_a_change_acts_on_patches_before_class_token_and_position():
    state, images, scale = small_state(), torch.randn(2, 3, *SIZE), torch.rand(2, 12)
    _, feature, _ = vit_reference.vit(state, images, 4, 16, scale=scale)
    seen = tower(state=state)(images, change=lambda patches: patches * scale[:, :, None])
    torch.testing.assert_close(seen.feature, feature, atol=1e-5, rtol=1e-5)


def test_clip_towers_give_scores_and_take_changes_too():
    from occplug.backbones import CLIPViT
    from tests.backbones import small

    vit = CLIPViT(small.VIT, SIZE).eval()
    images = torch.randn(2, 3, *SIZE)
    seen = vit(images, blocks=[3], attention=[4], class_scores=True)
    whole = seen.attention[4][:, :, 0]  # softmax over class token and patches
    patches = whole[:, :, 1:] / whole[:, :, 1:].sum(-1, keepdim=True)
    torch.testing.assert_close(seen.class_scores.softmax(-1), patches, atol=1e-5, rtol=1e-4)
    block, x = vit.layers[3], vit.layers[3].ln_1(seen.blocks[3])
    q, k, _ = (x @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, -1)
    first = (q[0, 0, :16] * k[0, 5, :16]).sum() / 4  # head 0 of 16 numbers, patch 4
    torch.testing.assert_close(seen.class_scores[0, 0, 4], first, atol=1e-5, rtol=1e-4)
    zero = vit.embed_tokens(images, change=torch.zeros_like)
    expected = vit.visual.ln_pre(vit.visual.positional_embedding[1:])
    torch.testing.assert_close(zero[0, 1:], expected, atol=1e-6, rtol=0)


def test_clip_camera_on_all_tokens_is_a_switch():
    from occplug.backbones import CLIPViT
    from tests.backbones import small

    images, camids = torch.randn(2, 3, *SIZE), torch.tensor([1, 0])
    for scope, moved in (("cls", [True, False]), ("all", [True, True])):
        vit = CLIPViT(small.VIT, SIZE, num_cameras=2, sie_scope=scope).eval()
        plain, with_camera = vit.embed_tokens(images), vit.embed_tokens(images, camids)
        assert [not torch.allclose(plain[:, i], with_camera[:, i]) for i in (0, 1)] == moved
    with pytest.raises(ConfigError, match="sie_scope is 'both'; there are: cls, all"):
        CLIPViT(small.VIT, SIZE, sie_scope="both")


def test_drop_path_grows_linearly_and_only_in_training():
    vit = tower(drop_path=0.2)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.layers]
    assert rates == pytest.approx([0.0, 0.1, 0.2])
    images = torch.randn(1, 3, *SIZE)
    assert torch.equal(vit(images).feature, vit(images).feature)


def test_initial_weights_come_from_a_file_with_positions_resized_and_the_head_left_behind(tmp_path):
    state = small_state(26)
    state["head.weight"], state["head.bias"] = torch.zeros(1000, 64), torch.zeros(1000)
    torch.save(state, tmp_path / "vit.pth")
    vit = tower(12)
    load_initial(str(tmp_path / "vit.pth"), vit)
    expected = clip_reference.resize(state["pos_embed"][0], (5, 5), (5, 3))
    torch.testing.assert_close(vit.visual.pos_embed[0], expected, atol=1e-5, rtol=0)
    assert torch.equal(vit.visual.blocks[2].mlp.fc1.weight, state["blocks.2.mlp.fc1.weight"])


def test_initial_weights_that_do_not_fit_change_nothing():
    state, vit = small_state(26), tower()
    before = vit.visual.norm.weight.clone()
    state["norm.weight"], state["extra"] = torch.full((64,), 9.0), torch.zeros(1)
    del state["blocks.0.attn.qkv.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_initial(state, vit)
    assert "does not fit the ImageNet ViT" in str(caught.value)
    assert "missing: blocks.0.attn.qkv.bias" in str(caught.value) and "unknown: extra" in str(caught.value)
    assert torch.equal(vit.visual.norm.weight, before)
    load_initial("none", vit)
    with pytest.raises(ConfigError, match="'embedded', which an ImageNet ViT does not have; use 'timm' or a file"):
        load_initial("embedded", vit)


def test_without_network_the_message_says_which_file_to_put_where(monkeypatch, tmp_path):
    from occplug.backbones import vit as module

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(module.timm, "create_model", offline)
    with pytest.raises(CheckpointError, match=r"no route to host[\s\S]*Fetch jx_vit_base_p16_224-80ecf9dd.pth"):
        load_initial("timm", tower())
    (tmp_path / "checkpoints").mkdir()
    torch.save(small_state(26), tmp_path / "checkpoints" / module.TIMM_FILE)
    load_initial("timm", tower())


@pytest.mark.parametrize("stride, rows", [(16, 129), (12, 211), (11, 243)])
def test_full_size_has_timms_names_and_shapes(stride, rows):
    with torch.device("meta"):
        vit = build(BACKBONES, "vit_b16", stride=stride, num_cameras=8)
    expected = {f"visual.{name}": shape for name, shape in vit_reference.vit_shapes(rows).items()}
    found = {name: tuple(value.shape) for name, value in vit.state_dict().items()}
    assert found == {**expected, "camera_embedding": (8, 768)}
