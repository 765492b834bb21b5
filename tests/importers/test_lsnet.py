"""Released LSNet checkpoints: what is read from them, and what is refused with which message."""

import pytest
import torch

from occplug.backbones.lsnet import SIZES, LSNet
from occplug.errors import CheckpointError, ConfigError
from occplug.importers import load_official
from tests.backbones import lsnet_reference as reference


def state_of(name="lsnet_t", **options):
    return reference.random_state(reference.shapes(*reference.SIZES[name], **options))


def double(state):
    return {key: value.double() for key, value in state.items()}


def without(state, part):
    return {key: value for key, value in state.items() if part not in key}


@pytest.mark.parametrize("name", list(reference.SIZES))
def test_every_size_gives_the_stages_of_the_reference(name):
    state = state_of(name)
    net = load_official("lsnet", state)
    assert isinstance(net, LSNet) and not net.training and net.widths == reference.SIZES[name][0]
    images = torch.randn(2, 3, 128, 64, dtype=torch.float64)
    with torch.no_grad():
        outputs = net.double().forward_features(images)
        expected = reference.forward_features(double(state), images, *reference.SIZES[name])
    for output, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, wanted, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("wrapper", ["model", "state_dict", None])
def test_a_distilled_file_of_data_parallel_is_read_and_its_heads_are_logged(wrapper, tmp_path, caplog):
    caplog.set_level("INFO")
    state = {f"module.{key}": value for key, value in state_of(distilled=True).items()}
    file = tmp_path / "t.pth"
    torch.save({wrapper: state, "epoch": 300} if wrapper else state, file)
    net = load_official("lsnet", file)
    assert torch.equal(net.blocks4[0].c.weight, state["module.blocks4.0.c.weight"])
    assert "head.l.weight" in caplog.text and "head_dist.bn.bias" in caplog.text
    assert "attention_bias_idxs" in caplog.text


def test_b_without_its_pointwise_branches_is_read_with_a_warning(caplog):
    state = without(state_of("lsnet_b"), ".mixer.conv1.")
    net = load_official("lsnet", state)
    assert "no mixer.conv1 in it" in caplog.text
    zeros = {k: torch.zeros(s) for k, s in reference.shapes(*reference.SIZES["lsnet_b"]).items() if ".conv1." in k}
    filled = {k: torch.ones_like(v) if k.endswith("running_var") else v for k, v in zeros.items()}
    images = torch.randn(1, 3, 128, 64, dtype=torch.float64)
    expected = reference.forward_features(double({**state, **filled}), images, *reference.SIZES["lsnet_b"])
    with torch.no_grad():
        torch.testing.assert_close(net.double().forward_features(images)[3], expected[3], atol=1e-8, rtol=1e-8)


def test_b_without_only_some_of_them_is_refused():
    state = without(state_of("lsnet_b"), "blocks1.0.mixer.conv1.")
    with pytest.raises(CheckpointError, match=r"does not fit lsnet_b\n  missing: blocks1.0.mixer.conv1.c.weight"):
        load_official("lsnet", state)


def test_t_without_its_pointwise_branches_is_refused():
    with pytest.raises(CheckpointError, match="missing: blocks2.2.mixer.conv1.c.weight"):
        load_official("lsnet", without(state_of(), ".mixer.conv1."))


def test_a_fused_file_is_refused_by_name():
    net = LSNet(**SIZES["lsnet_t"]).eval().fuse()
    with pytest.raises(CheckpointError, match="a fused LSNet, whose batch norms .*from before the fusion"):
        load_official("lsnet", net.state_dict())


def test_everything_that_does_not_fit_is_listed_at_once():
    state = state_of()
    state["blocks2.0.c.weight"] = state["blocks2.0.c.weight"][:, :, :1]
    state["extra.weight"] = torch.zeros(3)
    del state["patch_embed.0.bn.bias"]
    with pytest.raises(CheckpointError) as error:
        load_official("lsnet", state)
    assert str(error.value) == (
        "the state dict does not fit lsnet_t\n"
        "  wrong shape: blocks2.0.c.weight is [64, 1, 1, 3], expected [64, 1, 3, 3]\n"
        "  missing: patch_embed.0.bn.bias\n"
        "  unknown: extra.weight"
    )


def test_other_depths_are_named():
    state = without(state_of(), "blocks3.9.")
    with pytest.raises(CheckpointError, match="blocks in its stages: 0, 2, 7, 10; lsnet_t has 0, 2, 8, 10"):
        load_official("lsnet", state)


def test_a_wrong_stem_tensor_is_reported_and_not_believed():
    state = state_of()
    state["patch_embed.4.c.weight"] = torch.zeros(96, 32, 3, 3)
    message = r"lsnet_t\n  wrong shape: patch_embed.4.c.weight is \[96, 32, 3, 3\]"
    with pytest.raises(CheckpointError, match=message):
        load_official("lsnet", state)


@pytest.mark.parametrize(
    "state, has",
    [
        (reference.random_state(reference.shapes((160, 192, 224, 256), (0, 2, 2, 2))), "its stem has width 160"),
        ({"conv1.weight": torch.zeros(3)}, "it has no patch_embed.4.c.weight"),
    ],
)
def test_a_file_of_no_known_size(state, has):
    with pytest.raises(CheckpointError, match=f"no LSNet of a known size: {has}; known are 64 .lsnet_t., 96"):
        load_official("lsnet", state)


@pytest.mark.parametrize("change", [lambda t: t.T.flip(0), lambda t: t[:9, :9]])
def test_an_index_of_another_layout_is_refused(change):
    state = state_of()
    key = "blocks4.3.mixer.m.attention_bias_idxs"
    state[key] = change(state[key])
    with pytest.raises(CheckpointError, match=f"{key}: not .row distance. . 4 . .column distance. of a 4x4 grid"):
        load_official("lsnet", state)


def test_a_file_without_indices_is_read():
    state = state_of()
    found, expected = (
        load_official("lsnet", each).state_dict() for each in (without(state, "attention_bias_idxs"), state)
    )
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_neck_is_refused():
    with pytest.raises(ConfigError, match="neck is 'after', but LSNet is a backbone without neck; use 'before'"):
        load_official("lsnet", state_of(), neck="after")
