"""PersonViT, TransReID-SSL and SOLIDER files: what they embed to, against plain functions, and what is refused."""

import argparse

import pytest
import torch

from occplug.backbones import ViT, load_initial
from occplug.backbones.swin import SIZES as SWIN
from occplug.backbones.swin import Swin
from occplug.backbones.vit import SIZES as VIT
from occplug.errors import CheckpointError, ConfigError
from occplug.importers import load_official
from tests import swin_reference, vit_reference
from tests.clip_reference import bn_shapes, random_state, resize

SMALL_VIT = {"image_size": 224, "patch_size": 16, "width": 32, "layers": 3, "heads": 4}
SMALL_SWIN = {"width": 8, "depths": (2, 2, 3, 2), "heads": (1, 2, 4, 8)}
SIZE = (256, 128)


@pytest.fixture(autouse=True)
def small(request, monkeypatch):
    """Small towers behind the full ones' names, except where a test is about the full ones."""
    if "full_size" not in request.node.name:
        monkeypatch.setitem(VIT, "vit_b16", SMALL_VIT)
        monkeypatch.setitem(VIT, "vit_s16", {**SMALL_VIT, "width": 24})
        monkeypatch.setitem(SWIN, "solider_swin_t", SMALL_SWIN)
        monkeypatch.setitem(SWIN, "solider_swin_s", {**SMALL_SWIN, "depths": (2, 2, 5, 2)})
        monkeypatch.setitem(SWIN, "solider_swin_b", {**SMALL_SWIN, "width": 16, "depths": (2, 2, 5, 2)})


def personvit(prefix="base.", width=32, rows=129):
    """A fine-tuned file's tensors with the prefix "base."; with another prefix those of a teacher."""
    shapes = vit_reference.vit_shapes(rows, width, 3, prefix=prefix)
    if prefix == "base.":
        shapes |= {"classifier.weight": (5, width), "base.fc.weight": (10, width), "base.fc.bias": (10,)}
        return random_state(shapes | bn_shapes("bottleneck", width))
    return random_state(shapes | {"head.mlp.0.weight": (4, width), f"{prefix}masked_embed": (1, width)})


def solider(prefix="base.", width=8, depth=3, heads=None):
    state = swin_reference.state(width, (2, 2, depth, 2), heads or SMALL_SWIN["heads"], prefix)
    if prefix == "base.":
        return state | random_state({"classifier.weight": (5, 8 * width), **bn_shapes("bottleneck", 8 * width)})
    return state | random_state({"head.mlp.0.weight": (4, 8), "head.last_layer.weight_g": (4, 1)})


def pictures(*size, count=2):
    return torch.randn(count, 3, *(size or SIZE), generator=torch.Generator().manual_seed(1))


def vit_feature(state, images, prefix, grid=None):
    if grid is not None:
        fitted = resize(state[f"{prefix}pos_embed"][0], (16, 8), grid)
        state = {**state, f"{prefix}pos_embed": fitted[None]}
    return vit_reference.vit(state, images, 4, 16, prefix=prefix)[1]


def after_neck(feature, state):
    get = lambda key: state[f"bottleneck.{key}"]  # noqa: E731
    centred = (feature - get("running_mean")) / torch.sqrt(get("running_var") + 1e-5)
    return centred * get("weight") + get("bias")


def close(found, expected):
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-5 * max(1.0, expected.abs().max().item()))


# ---------------------------------------------------------------------- PersonViT, TransReID-SSL


@pytest.mark.parametrize("source", ["personvit", "transreid_ssl"])
@pytest.mark.parametrize("neck", ["before", "after"])
def test_a_fine_tuned_personvit_gives_its_class_token_on_either_side_of_the_neck(source, neck):
    state = personvit()
    method = load_official(source, state, neck=neck)
    feature = vit_feature(state, pictures(), "base.")
    close(method.embed(pictures()).vector, feature if neck == "before" else after_neck(feature, state))
    assert not method.training and method.backbone.grid == (16, 8)


@pytest.mark.parametrize("prefix", ["backbone.", ""])
@pytest.mark.parametrize("module", ["", "module."])
@pytest.mark.parametrize("wrapped", [True, False])
def test_pre_trained_personvits_are_read_from_every_layout(prefix, module, wrapped, tmp_path):
    state = personvit(prefix, width=24)
    content = {f"{module}{name}": value for name, value in state.items()}
    if wrapped:
        content = {"student": {}, "teacher": content, "epoch": 3, "args": argparse.Namespace(lr=1e-3, name="x")}
    torch.save(content, tmp_path / "checkpoint.pth")
    expected = vit_feature(state, pictures(), prefix)
    for checkpoint in (content, tmp_path / "checkpoint.pth"):
        method = load_official("personvit", checkpoint)
        close(method.embed(pictures()).vector, expected)
    assert method.backbone.arch is VIT["vit_s16"]


def test_positions_of_129_rows_are_16_by_8_and_fitted_to_other_images():
    state = personvit("backbone.")
    method = load_official("personvit", state, image_size=(384, 128))
    images = pictures(384, 128)
    close(method.embed(images).vector, vit_feature(state, images, "backbone.", (24, 8)))
    method = load_official("personvit", state, image_size=(128, 256))  # a grid of as many patches, and another one
    images = pictures(128, 256)
    close(method.embed(images).vector, vit_feature(state, images, "backbone.", (8, 16)))


def test_a_pre_trained_file_has_no_neck():
    for source, state in (("personvit", personvit("backbone.")), ("solider", solider("backbone."))):
        with pytest.raises(ConfigError, match="neck is 'after'"):
            load_official(source, state, neck="after")


@pytest.mark.parametrize("source, make", [("personvit", personvit), ("solider", solider)])
@pytest.mark.parametrize("prefix", ["base.", "backbone."])
def test_every_official_name_that_does_not_fit_is_in_the_error(source, make, prefix):
    state = make(prefix)
    first, *others = [n for n in state if n.startswith(prefix) and n.endswith("norm1.weight")]
    state[f"{prefix}norm.new"] = torch.zeros(1)
    state[others[0]] = torch.zeros(3)
    del state[first]
    with pytest.raises(CheckpointError) as caught:
        load_official(source, state)
    told = str(caught.value)
    assert f"missing: {first}" in told and f"unknown: {prefix}norm.new" in told and f"{others[0]} is [3]" in told


@pytest.mark.parametrize(
    "name, told",
    [
        ("patch_embed.conv.0.weight", "ICS stem"),
        ("blocks.0.gamma_1", "layer scale"),
        ("fc_norm.weight", "another architecture"),
    ],
)
def test_other_architectures_of_the_family_are_refused(name, told):
    with pytest.raises(CheckpointError, match=told):
        load_official("transreid_ssl", personvit("") | {name: torch.zeros(1)})


def test_towers_take_the_same_files_as_initial_weights(tmp_path):
    torch.save({"teacher": personvit("backbone."), "args": argparse.Namespace()}, tmp_path / "v.pth")
    torch.save(solider("base."), tmp_path / "s.pth")
    vit = ViT(SMALL_VIT, (128, 64), stride=8).eval()
    load_initial(str(tmp_path / "v.pth"), vit)
    expected = resize(personvit("backbone.")["backbone.pos_embed"][0], (16, 8), vit.grid)
    torch.testing.assert_close(vit.visual.pos_embed[0], expected)
    swin = Swin(SMALL_SWIN, (64, 32)).eval()
    load_initial(str(tmp_path / "s.pth"), swin)
    levels = swin_reference.levels(solider("base."), pictures(64, 32), SMALL_SWIN["heads"], "base.")
    close(swin(pictures(64, 32)).feature, levels[3].flatten(2).mean(2))
    with pytest.raises(CheckpointError, match="Google Drive"):
        load_initial("nowhere.pth", Swin({"name": "solider_swin_t", **SMALL_SWIN}, (64, 32)))
    with pytest.raises(ConfigError, match="'timm', which a SOLIDER Swin does not have"):
        load_initial("timm", swin)


def test_settings_in_a_file_are_inert_and_nothing_else_is_let_in(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"teacher": personvit("backbone."), "args": argparse.Namespace(x=Trap())}, tmp_path / "trap.pth")
    with pytest.raises(CheckpointError, match="refused"):
        load_official("personvit", tmp_path / "trap.pth")


# ---------------------------------------------------------------------- SOLIDER


@pytest.mark.parametrize("size", [(256, 128), (64, 32), (90, 50)])
def test_solider_gives_the_mean_of_its_last_level_at_any_size(size):
    state, images = solider("backbone."), pictures(*size, count=1)
    method = load_official("solider", {"teacher": state, "fp16_scaler": None}, image_size=size)
    expected = swin_reference.levels(state, images, SMALL_SWIN["heads"], "backbone.")[3].flatten(2).mean(2)
    close(method.embed(images).vector, expected)


@pytest.mark.parametrize("neck", ["before", "after"])
def test_a_fine_tuned_solider_gives_its_feature_on_either_side_of_the_neck(neck):
    state, images = solider("base."), pictures(128, 64)
    method = load_official("solider", {f"module.{k}": v for k, v in state.items()}, image_size=(128, 64), neck=neck)
    feature = swin_reference.levels(state, images, SMALL_SWIN["heads"], "base.")[3].flatten(2).mean(2)
    close(method.embed(images).vector, feature if neck == "before" else after_neck(feature, state))


@pytest.mark.parametrize("name, width, depth", [("t", 8, 3), ("s", 8, 5), ("b", 16, 5)])
def test_the_size_of_a_solider_is_read_from_its_tensors(name, width, depth):
    method = load_official("solider", solider("backbone.", width, depth), image_size=(64, 32))
    assert method.backbone.arch["name"] == f"solider_swin_{name}"


def test_another_index_of_positions_is_another_swin_and_an_absent_one_is_no_loss():
    state = solider("backbone.")
    name = "backbone.stages.1.blocks.0.attn.w_msa.relative_position_index"
    load_official("solider", {k: v for k, v in state.items() if k != name}, image_size=(64, 32))
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_official("solider", state | {name: state[name].flip(0)}, image_size=(64, 32))


@pytest.mark.slow
def test_solider_at_384_by_128():
    test_solider_gives_the_mean_of_its_last_level_at_any_size((384, 128))


def test_full_size_counts_of_tensors_are_the_published_ones():
    for name, count in (("solider_swin_t", 205), ("solider_swin_s", 373), ("solider_swin_b", 373)):
        sizes = SWIN[name]
        shapes = swin_reference.shapes(sizes["width"], sizes["depths"], sizes["heads"], "")
        assert len(shapes) == count
        with torch.device("meta"):
            own = Swin(sizes).visual.state_dict()
        index = [key for key in shapes if key.endswith("relative_position_index")]
        assert {k: tuple(v.shape) for k, v in own.items()} == {k: v for k, v in shapes.items() if k not in index}
    with torch.device("meta"):
        assert len(ViT(VIT["vit_s16"]).visual.state_dict()) == 150
