"""WGFF: the CLIP tower at its start, the formula of a gate afterwards; gradients, weights and learning rates."""

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from occplug import build_method
from occplug.backbones import CLIPViT, lsnet_weights
from occplug.backbones.architectures import ARCHITECTURES
from occplug.backbones.lsnet import FixedBatchNorm2d
from occplug.backbones.tower import map_to_tokens, tokens_to_map
from occplug.backbones.weights import load_clip
from occplug.backbones.wgff import Gate
from occplug.config import default_config
from occplug.errors import CheckpointError, ConfigError
from occplug.method import parameter_groups
from occplug.registry import BACKBONES, build, has_texts
from tests.backbones import lsnet_reference as reference
from tests.backbones import small

SIZE = (64, 48)


@pytest.fixture
def towers(monkeypatch):
    """Small towers behind the names of the full ones."""
    monkeypatch.setitem(ARCHITECTURES, "clip_vit_b16", small.VIT)
    monkeypatch.setitem(ARCHITECTURES, "clip_rn50", small.RESNET)


def hybrid(clip="clip_vit_b16", **options):
    torch.manual_seed(3)
    return build(BACKBONES, "wgff", **{"clip": clip, "lsnet": "lsnet_mini", "image_size": SIZE, **options})


def opened(net):
    """`net` with gates that let LSNet through."""
    with torch.no_grad():
        for gate in net.gates:
            gate.expand.weight.normal_(std=0.5)
            gate.expand.bias.normal_(std=0.5)
            gate.weight.normal_()
    return net


def same(a, b):
    assert torch.equal(a.last, b.last) and torch.equal(a.feature, b.feature) and torch.equal(a.projected, b.projected)


# ---------------------------------------------------------------- at the start


@pytest.mark.parametrize("mode", ["gate", "add"])
@pytest.mark.parametrize(
    "clip, options, grid",
    [
        ("clip_vit_b16", {"image_size": (256, 128)}, (16, 8)),
        ("clip_vit_b16", {"image_size": (256, 128), "stride": 12, "num_cameras": 4}, (21, 10)),
        ("clip_rn50", {"image_size": (256, 128)}, (16, 8)),
        ("clip_vit_tiny", {"image_size": (128, 64)}, (16, 8)),
        ("clip_vit_tiny", {"image_size": (128, 64), "stride": 6, "num_cameras": 4}, (21, 10)),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_at_its_start_it_is_the_clip_tower_to_the_bit(towers, clip, options, grid, mode, training):
    net = hybrid(clip, mode=mode, **options).train(training)
    plain = copy.deepcopy(net.clip)
    images, camids = torch.randn(2, 3, *options["image_size"]), torch.tensor([3, 0])
    found, expected = net(images, camids), plain(images, camids)
    same(found, expected)
    assert found.grid == grid == net.grid
    found, expected = net(images, camids, tokens=True, blocks=[2]), plain(images, camids, tokens=True, blocks=[2])
    same(found, expected)
    assert torch.equal(found.tokens, expected.tokens) and torch.equal(found.blocks[2], expected.blocks[2])
    for name in ("arch", "image_size", "stride", "grid", "widths", "mean", "std"):
        assert getattr(net, name) == getattr(plain, name)


@pytest.mark.parametrize("clip", ["clip_vit_b16", "clip_rn50"])
def test_full_size_at_its_start_and_parameters_of_the_gates(clip):
    net = build(BACKBONES, "wgff", clip=clip, image_size=(256, 128)).eval()
    sizes = [sum(p.numel() for p in gate.parameters()) for gate in net.gates]
    if clip == "clip_vit_b16":
        assert sizes == [309_120, 309_120]
    else:
        assert sum(sizes) == 1_684_864
    assert sum(p.numel() for p in net.lsnet.parameters()) == 11_024_064
    images = torch.randn(1, 3, 256, 128)
    with torch.no_grad():
        same(net(images), net.clip(images))


# ---------------------------------------------------------------- formula


@pytest.mark.parametrize("mode", ["gate", "add"])
def test_a_gate_is_the_formula(mode):
    gate = Gate(6, 32, mode).eval()
    state = {name: torch.randn(value.shape) for name, value in gate.state_dict().items() if value.ndim}
    state["norm.running_var"] = state["norm.running_var"].abs() + 0.5
    gate.load_state_dict(state, strict=False)
    x, guide = torch.randn(2, 32, 3, 2), torch.randn(2, 6, 3, 2)
    found = gate(x, guide)
    for i in range(3):
        for j in range(2):
            hidden = guide[:, :, i, j] @ state["reduce.weight"][:, :, 0, 0].T
            scale = state["norm.weight"] / torch.sqrt(state["norm.running_var"] + 1e-5)
            hidden = torch.clamp((hidden - state["norm.running_mean"]) * scale + state["norm.bias"], min=0)
            u = hidden @ state["expand.weight"][:, :, 0, 0].T + state["expand.bias"]
            if mode == "gate":
                expected = x[:, :, i, j] * (1 + state["weight"] * (2 * torch.sigmoid(u) - 1))
            else:
                expected = x[:, :, i, j] + state["weight"] * u
            torch.testing.assert_close(found[:, :, i, j], expected, atol=1e-5, rtol=1e-5)


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="mode is 'mul', not 'gate' or 'add'"):
        Gate(6, 32, "mul")


def test_vit_patches_are_gated_position_by_position_after_layers_1_and_2(towers):
    net = opened(hybrid(stride=12)).eval()
    images, tower = torch.randn(2, 3, *SIZE), net.clip
    rows, columns = net.grid
    scaled = torch.stack(
        [((images[:, c] * 0.5 + 0.5) - (0.485, 0.456, 0.406)[c]) / (0.229, 0.224, 0.225)[c] for c in range(3)], dim=1
    )
    stages = net.lsnet.forward_features(scaled)
    shaped = []
    for stage in stages:
        shrinks = stage.shape[2] > rows
        assert shrinks == (stage.shape[3] > columns)  # else the reference here is not the formula
        shaped.append(
            F.adaptive_avg_pool2d(stage, net.grid)
            if shrinks
            else F.interpolate(stage, size=net.grid, mode="bilinear", align_corners=False)
        )
    fused = torch.cat(shaped, dim=1)
    assert fused.shape[1] == 32 + 64 + 96 + 128
    x = tower.embed_tokens(images)
    for number, block in enumerate(tower.visual.transformer.resblocks, start=1):
        previous, x = x, block(x)
        if number in (1, 2):
            gate, y = net.gates[number - 1], x.clone()
            for i in range(rows):
                for j in range(columns):
                    cell = x[:, 1 + i * columns + j, :, None, None]
                    y[:, 1 + i * columns + j] = gate(cell, fused[:, :, i : i + 1, j : j + 1])[:, :, 0, 0]
            x = y
    found, expected = net(images), tower.finish(previous, x)
    torch.testing.assert_close(found.last, expected.last, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.projected, expected.projected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found.projected, tower(images).projected, atol=1e-2)


def test_resnet_layers_are_gated_stage_by_stage(towers):
    net = opened(hybrid("clip_rn50")).eval()
    images, visual = torch.randn(2, 3, *SIZE), net.clip.visual
    stages = net.lsnet.forward_features(images)  # the same constants: nothing to convert
    x, maps = visual.stem(images), []
    for gate, layer, stage in zip(net.gates, (visual.layer1, visual.layer2, visual.layer3, visual.layer4), stages):
        x = layer(x)
        x = gate(x, F.interpolate(stage, size=x.shape[2:], mode="bilinear", align_corners=False))
        maps.append(x)
    found = net(images, blocks=[1, 4])
    torch.testing.assert_close(found.blocks[1], maps[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.blocks[4], maps[3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.last, maps[2].mean((2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.feature, maps[3].mean((2, 3)), atol=1e-5, rtol=1e-5)
    pooled = net.clip._attention_pool(map_to_tokens(maps[3]), whole=False)[:, 0]
    torch.testing.assert_close(found.projected, pooled, atol=1e-5, rtol=1e-5)


def test_tokens_and_maps_convert_without_loss_row_by_row():
    rows, columns = 21, 10
    tokens = torch.tensor([[(i, j) for i in range(rows) for j in range(columns)]]).float()  # each says where it is
    whole = tokens_to_map(tokens, (rows, columns))
    assert whole.shape == (1, 2, rows, columns)
    assert torch.equal(whole[0, 0], torch.arange(rows).float()[:, None].expand(rows, columns))
    assert torch.equal(whole[0, 1], torch.arange(columns).float().expand(rows, columns))
    assert torch.equal(map_to_tokens(whole), tokens)


def test_lsnet_sees_imagenet_constants(towers):
    seen = []
    for clip in ("clip_vit_b16", "clip_rn50"):
        net = hybrid(clip).eval()
        net.lsnet.patch_embed.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        pixels = torch.rand(1, 3, *SIZE)
        mean, std = (torch.tensor(v)[:, None, None] for v in (net.clip.mean, net.clip.std))
        net((pixels - mean) / std)
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        expected = (pixels - mean) / std
        torch.testing.assert_close(seen[-1], expected, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("mode", ["gate", "add"])
@pytest.mark.parametrize("clip", ["clip_vit_b16", "clip_rn50", "clip_vit_tiny"])
def test_gates_learn_at_once_and_lsnet_after_one_step(towers, clip, mode):
    net = hybrid(clip, mode=mode, image_size=(128, 64)).train()
    images = torch.randn(4, 3, 128, 64)

    def gradients():
        net.zero_grad()
        seen = net(images)
        (seen.feature.square().mean() + seen.projected.sum()).backward()
        return {name: p.grad.abs().sum().item() for name, p in net.named_parameters() if p.grad is not None}

    first = gradients()
    assert all(first[f"gates.{i}.expand.{part}"] > 0 for i in range(len(net.gates)) for part in ("weight", "bias"))
    torch.optim.Adam(net.parameters(), 1e-2).step()
    second = gradients()
    trained = {name for name, p in net.named_parameters() if name.startswith(("gates.", "lsnet."))}
    # LSNet's zero-initialised branches open one step later; what is before them has no gradient yet
    late = {name for name in trained if ".ffn." in name or ".mixer.m." in name}
    assert [name for name in trained - late if not second[name] > 0] == []
    assert all(second[name] > 0 for name in late if name.endswith(("pw2.bn.weight", "proj.1.bn.weight")))


def test_the_class_token_is_left_alone(towers):
    """At the last block that is gated nothing of the gate can be in the class token of that block."""
    net = opened(hybrid(points=[[3, "fused"]])).eval()
    images = torch.randn(2, 3, *SIZE)
    found, plain = net(images, blocks=[3]), net.clip(images, blocks=[3])
    assert torch.equal(found.blocks[3][:, 0], plain.blocks[3][:, 0]) and torch.equal(found.last, plain.last)
    assert not torch.allclose(found.blocks[3][:, 1:], plain.blocks[3][:, 1:])
    assert not torch.allclose(found.feature, plain.feature)


@pytest.mark.parametrize(
    "clip, points, stages",
    [
        ("clip_vit_b16", [[0, "fused"]], 4),
        ("clip_vit_b16", [[1, 2], [3, 1]], 2),
        ("clip_rn50", [[2, "fused"]], 4),
        ("clip_rn50", [[4, 3]], 3),
    ],
)
def test_other_points(towers, clip, points, stages):
    """Stages of LSNet that no point reads are not there, so nothing is trained that no loss reaches."""
    net = hybrid(clip, points=points)
    assert len(net.lsnet.widths) == stages and len(net.gates) == len(points)
    images = torch.randn(2, 3, *SIZE)
    same(net.eval()(images), net.clip(images))
    seen = opened(net).train()(images)
    (seen.feature.sum() + seen.projected.square().sum()).backward()
    assert [name for name, p in net.named_parameters() if name.startswith("lsnet.") and p.grad is None] == []
    groups = parameter_groups(net, net.own_groups(1e-4, prefix=""))
    assert len(groups) == (3 if stages == 4 else 2)


@pytest.mark.parametrize(
    "clip, points, message",
    [
        ("clip_vit_b16", [[4, "fused"]], r"has \[4, 'fused'\]; .* from 0 to 3, the source 1, 2, 3, 4 or 'fused'"),
        ("clip_rn50", [[0, 1]], r"has \[0, 1\]; .* from 1 to 4"),
        ("clip_rn50", [[1, 5]], r"has \[1, 5\]"),
        ("clip_rn50", [1, 2], r"has 1; a point is \[layer, source\]"),
        ("clip_rn50", [[1]], r"has \[1\]; a point is"),
        ("clip_rn50", [[1, 2], [1, 3]], "has layer 1 twice; there is one gate at a layer"),
    ],
)
def test_points_that_do_not_exist(towers, clip, points, message):
    with pytest.raises(ConfigError, match=f"backbone.wgff.points {message}"):
        hybrid(clip, points=points)


def test_fixed_statistics_survive_what_the_engine_does(towers):
    from occplug.engine.freezing import close_layers

    images = torch.randn(4, 3, *SIZE)
    for mode, moves in (("train", True), ("eval", False)):
        net = hybrid(lsnet_bn=mode)
        net.train()
        close_layers(net)
        net(images)
        norm = net.lsnet.patch_embed[0].bn
        assert isinstance(norm, FixedBatchNorm2d) != moves and norm.weight.requires_grad
        assert (norm.running_mean.abs().sum() > 0) == moves
        assert net.gates[0].norm.running_mean.abs().sum() > 0


def test_learning_rates(towers):
    net = hybrid(lr=3e-4, lsnet_lr=2e-5)
    groups = parameter_groups(net, net.own_groups(1e-4, prefix=""))
    found = {name: (g["lr"], g["weight_decay"]) for g in groups for name in g["names"]}
    for name, parameter in net.named_parameters():
        if name.startswith("clip."):
            assert name not in found and not parameter.requires_grad
        elif name.startswith("gates."):
            assert found[name] == (3e-4, 1e-4)
        else:
            assert found[name] == (2e-5, 0.0 if name.endswith("attention_biases") else 1e-4)
    assert net.clip.own_groups(1e-4) == []


# ---------------------------------------------------------------- weights


def test_clip_weights_go_into_the_tower(towers, tmp_path, caplog):
    state = small.vit_state() | small.text_state()
    torch.save(state, tmp_path / "clip.pt")
    net, plain = hybrid(), CLIPViT(small.VIT, SIZE)
    before = net.lsnet.patch_embed[0].c.weight.clone()
    load_clip(tmp_path / "clip.pt", net)
    load_clip(tmp_path / "clip.pt", plain)
    images = torch.randn(2, 3, *SIZE)
    same(net.eval()(images), plain.eval()(images))
    assert torch.equal(net.lsnet.patch_embed[0].c.weight, before)
    assert "LSNet starts from random weights, as backbone.wgff.weights none asks for" in caplog.text


def test_released_weights_come_from_the_hub(towers, tmp_path, monkeypatch):
    state = reference.random_state(reference.shapes(*reference.SIZES["lsnet_t"]))
    torch.save({"model": state}, tmp_path / "lsnet_t.pth")
    torch.save(small.vit_state() | small.text_state(), tmp_path / "clip.pt")
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        return str(tmp_path / file)

    monkeypatch.setattr(lsnet_weights.huggingface_hub, "hf_hub_download", download)
    net = hybrid(lsnet="lsnet_t", weights="released")
    load_clip(tmp_path / "clip.pt", net)
    assert asked == [("jameslahm/lsnet", "lsnet_t.pth")]
    assert torch.equal(net.lsnet.patch_embed[0].c.weight, state["patch_embed.0.c.weight"])


def test_without_a_network_released_weights_are_an_error_with_the_cure(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(lsnet_weights.huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"released weights of lsnet_s .*\n  Fetch .*lsnet_s\.pth elsewhere"):
        lsnet_weights.released_file("lsnet_s")
    with pytest.raises(ConfigError, match="there is no released lsnet_mini; there are lsnet_t, lsnet_s, lsnet_b"):
        lsnet_weights.released_file("lsnet_mini")


def test_the_embedded_lsnet_is_lsnet_mini_and_knows_rendered_people(caplog):
    net = hybrid(lsnet="lsnet_mini", weights="embedded")
    net.load_beside_clip()
    for name, value in load_file(lsnet_weights.EMBEDDED).items():
        assert value.dtype in (torch.float16, torch.int64)
        assert torch.equal(net.lsnet.state_dict()[name], value.to(net.lsnet.state_dict()[name].dtype))
    assert lsnet_weights.EMBEDDED.stat().st_size < 1e6 and "random" not in caplog.text
    with pytest.raises(CheckpointError, match="holds lsnet_mini, but backbone.wgff.lsnet is 'lsnet_t'"):
        hybrid(lsnet="lsnet_t", weights="embedded").load_beside_clip()


def test_lsnet_weights_go_into_lsnet(towers, tmp_path, caplog):
    state = reference.random_state(reference.shapes(*reference.SIZES["lsnet_t"]))
    torch.save({"model": state}, tmp_path / "t.pth")
    for points in ([], [[1, 2]]):  # the latter without stages 3 and 4
        net = hybrid(lsnet="lsnet_t", weights=str(tmp_path / "t.pth"), points=points)
        load_clip("none", net)
        for name, value in net.lsnet.state_dict().items():
            assert torch.equal(value, state[name])
    assert "random" not in caplog.text


@pytest.mark.parametrize("content, message", [("lsnet_s", "holds lsnet_s, but backbone.wgff.lsnet is 'lsnet_t'; set")])
def test_lsnet_weights_of_another_size_are_refused(towers, tmp_path, content, message):
    file = tmp_path / "s.pth"
    torch.save(reference.random_state(reference.shapes(*reference.SIZES[content])), file)
    with pytest.raises(CheckpointError, match=f"s.pth {message} it to 'lsnet_s' or give another file"):
        load_clip("none", hybrid(lsnet="lsnet_t", weights=str(file)))


def test_its_projection_is_in_the_space_of_its_clips_texts(towers):
    assert has_texts("wgff") and hybrid().projection_names == (r"clip\.visual\.proj",)


def test_a_missing_file_is_named(towers):
    with pytest.raises(CheckpointError, match="nowhere.pth: there is no such weight file"):
        load_clip("none", hybrid(weights="nowhere.pth"))


# ---------------------------------------------------------------- in a method

TINY = ["backbone.weights", "none", "data.height", 64, "data.width", 32, "backbone.stride", 8]
OPTIONS = [*TINY, "backbone.wgff.clip", "clip_vit_tiny", "backbone.wgff.lsnet", "lsnet_mini"]


def test_clip_reid_builds_on_it_and_trains_all_of_it():
    cfg = default_config("clip_reid", "wgff", OPTIONS)
    method = build_method(cfg, 4, 2).eval()
    _, stage2 = method.stages()
    images = torch.randn(8, 3, 64, 32)
    called = []
    method.backbone.lsnet.patch_embed.register_forward_hook(lambda *_: called.append(1))
    with torch.no_grad():
        features = method.encode_images(images)
        assert not called  # stage 1 does without LSNet
        assert torch.equal(features, method.backbone(images).projected) and called
    groups = parameter_groups(method.train(), stage2.groups)
    rates = {name: g["lr"] for g in groups for name in g["names"]}
    assert rates["backbone.gates.0.expand.bias"] == 3.5e-4
    assert rates["backbone.lsnet.patch_embed.0.c.weight"] == rates["backbone.lsnet.blocks2.2.se.fc1.bias"] == 3.5e-5
    assert rates["backbone.clip.visual.conv1.weight"] == 5e-6
    stage2.prepare(None, torch.device("cpu"))
    batch = {"img": images, "pid": torch.arange(8) // 2, "camid": torch.zeros(8, dtype=torch.long)}
    sum(stage2.losses(batch).values()).backward()
    assert [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_method_embeds_as_its_plain_twin_at_the_start():
    cfg = default_config("clip_reid", "wgff", OPTIONS)
    torch.manual_seed(0)
    method = build_method(cfg, 4, 2)
    plain = build_method(default_config("clip_reid", "clip_vit_tiny", TINY), 4, 2)
    plain.backbone.load_state_dict(method.backbone.clip.state_dict())
    images = torch.randn(3, 3, 64, 32)
    assert torch.equal(method.embed(images).vector, plain.embed(images).vector)
