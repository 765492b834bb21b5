"""Rollout and Grad-CAM: against loops and a forward pass written out; every kind of tower, and stock models."""

import pytest
import torch

from occplug import build_method
from occplug.config import default_config
from occplug.errors import ConfigError
from occplug.registry import METHODS, get, names
from occplug.reports.heatmaps import best_kind, grad_cam, part_maps, rolled_out, rollout

SIZE = ["data.height", 64, "data.width", 32, "backbone.weights", "none"]


def made(method, backbone, *options):
    torch.manual_seed(0)
    return build_method(default_config(method, backbone, [*SIZE, *options]), 4, 2, pretrained=False).eval()


def test_rollout_is_the_product_of_half_attention_and_half_identity():
    attention = [torch.rand(2, 3, 4, 4).softmax(dim=-1) for _ in range(3)]
    found = rolled_out(attention)
    for b in range(2):
        flow = [[float(i == j) for j in range(4)] for i in range(4)]
        for weights in attention:
            step = [[0.5 * float(weights[b, :, i, j].mean()) + 0.5 * (i == j) for j in range(4)] for i in range(4)]
            flow = [[sum(step[i][k] * flow[k][j] for k in range(4)) for j in range(4)] for i in range(4)]
        for i in range(4):
            assert found[b, i].tolist() == pytest.approx(flow[i], abs=1e-5)
            assert sum(flow[i]) == pytest.approx(1, abs=1e-5)


def test_grad_cam_of_a_transformer_is_the_formula():
    """Patches into the last block, mean gradient of the cosine, weighted sum, cut off at 0."""
    method = made("clip_reid", "clip_vit_tiny", "backbone.stride", 8)
    images, others = torch.rand(2, 3, 64, 32), torch.randn(2, method.embed(torch.rand(1, 3, 64, 32)).vector.shape[1])
    found, tower = grad_cam(method, images, None, others), method.backbone
    assert found.shape == (2, 8, 4) and float(found.max()) > 0 == float(found.min())
    stream = tower(images, blocks=[tower.depth - 1]).blocks[tower.depth - 1].detach()
    for b in range(2):
        patches = stream[b : b + 1, 1:].clone().requires_grad_()
        x = torch.cat([stream[b : b + 1, :1], patches], dim=1)
        levels = tower.finish(x, tower.run_block(tower.layers[-1], x))
        vector = torch.cat([levels.feature, levels.projected], dim=1)[0]
        score = (vector @ others[b]) / (vector.norm() * others[b].norm())
        (gradient,) = torch.autograd.grad(score, patches)
        weights = [float(gradient[0, :, c].mean()) for c in range(patches.shape[2])]
        for place in range(patches.shape[1]):
            value = sum(w * v for w, v in zip(weights, patches[0, place].tolist()))
            assert float(found[b].flatten()[place]) == pytest.approx(max(value, 0.0), abs=1e-5)


def test_watching_leaves_the_model_as_it_was():
    method = made("clip_reid", "clip_vit_tiny", "backbone.stride", 8)
    images = torch.rand(2, 3, 64, 32)
    before = method.embed(images).vector
    grad_cam(method, images, None, torch.rand_like(before))
    assert torch.equal(method.embed(images).vector, before) and "forward" not in vars(method.backbone)
    assert all(parameter.grad is None for parameter in method.parameters())


def test_gates_of_a_hybrid_reach_both_maps():
    """What LSNet adds changes the streams that maps are made of, also where an edit of the hybrid meets the map's."""
    wgff = ["backbone.wgff.clip", "clip_vit_tiny", "backbone.wgff.lsnet", "lsnet_mini", "backbone.wgff.weights", "none"]
    method = made("dpl_reid", "wgff", "backbone.stride", 8, *wgff, "backbone.wgff.points", [[1, "fused"], [5, 1]])
    images, rows = torch.rand(2, 3, 64, 32), torch.rand(2, method.embed(torch.rand(1, 3, 64, 32)).vector.shape[1])
    before = rollout(method, images, None), grad_cam(method, images, None, rows)
    for gate in method.backbone.gates:
        torch.nn.init.normal_(gate.expand.weight, std=2.0)
    assert not torch.allclose(before[0], rollout(method, images, None))
    method.backbone.gates[0].expand.weight.data.zero_()  # the gate at the map's own point alone
    assert not torch.allclose(before[1], grad_cam(method, images, None, rows))


TINY = [name for name in names(METHODS) if "clip_vit_tiny" in get(METHODS, name).backbones.values()]


@pytest.mark.parametrize("name", TINY)
def test_every_method_has_maps_of_its_transformer(name):
    method = made(name, "clip_vit_tiny", "backbone.stride", 8, "backbone.sie_camera", True)
    images, camids = torch.rand(2, 3, 64, 32), torch.tensor([0, 1])
    vectors = method.embed(torch.rand(2, 3, 64, 32), camids).vector
    flow = rollout(method, images, camids)
    assert best_kind(method) == "rollout" and flow.shape == (2, *method.backbone.grid)
    assert float(flow.min()) > 0 and float(flow.sum((1, 2)).max()) < 1  # the class token keeps the rest
    cam = grad_cam(method, images, camids, vectors)
    assert cam.shape == flow.shape and bool(cam.isfinite().all()) and float(cam.max()) > 0


PLAIN = ["method.mask", "none", "method.hem", False]
# method, backbone, options, the map's grid for 64 x 32 images, whether there is a rollout
TOWERS = [
    ("clip_reid", "clip_rn50", [], (4, 2), False),
    ("dpl_reid", "clip_rn50", [], (4, 2), False),
    ("dpm", "solider_swin_mini", PLAIN, (2, 1), False),
    ("dpm", "vit_mini", ["method.mask", "none", "backbone.stride", 8], (8, 4), True),
    ("dpm", "timm:vit_tiny_patch16_224", PLAIN, (4, 2), True),
    ("dpm", "timm:vit_little_patch16_reg4_gap_256", PLAIN, (4, 2), True),
    ("dpm", "timm:vit_pwee_patch16_reg1_gap_256", PLAIN, (4, 2), False),
    ("dpm", "timm:eva02_tiny_patch14_224", [*PLAIN, "backbone.stride", 14], (4, 2), False),
    ("dpm", "timm:resnet18", PLAIN, (2, 1), False),
    ("dpm", "timm:swin_tiny_patch4_window7_224", PLAIN, (2, 1), False),
]


@pytest.mark.parametrize(("name", "backbone", "options", "grid", "has_rollout"), TOWERS, ids=lambda v: str(v)[:40])
def test_every_tower_has_a_map_and_says_what_it_lacks(name, backbone, options, grid, has_rollout):
    size = (56, 28) if "patch14" in backbone else (64, 32)
    method = made(name, backbone, *options, "data.height", size[0], "data.width", size[1])
    images, others = torch.rand(2, 3, *size), torch.rand(2, method.embed(torch.rand(1, 3, *size)).vector.shape[1])
    cam = grad_cam(method, images, None, others)
    assert cam.shape == (2, *grid) and bool(cam.isfinite().all())
    assert best_kind(method) == ("rollout" if has_rollout else "gradcam")
    if has_rollout:
        assert rollout(method, images, None).shape == (2, *grid)
    else:
        with pytest.raises(ConfigError, match="gives no attention of a class token, so there is no rollout; --map"):
            rollout(method, images, None)
    with pytest.raises(ConfigError, match=r"has no attention maps of parts; ProFD has"):
        part_maps(method, images, None)


def test_a_tower_that_pools_tokens_has_nothing_to_draw():
    method = made("dpm", "timm:pit_ti_224", *PLAIN, "data.height", 64, "data.width", 64)
    with pytest.raises(ConfigError, match="gives no map of the image, only its feature"):
        grad_cam(method, torch.rand(1, 3, 64, 64), None, torch.rand(1, method.backbone.widths[0]))


GRIDS = {
    "osnet_x0_25": (16, 8),
    "mobilenetv2_x1_0": (8, 4),
    "shufflenet": (8, 4),
    "squeezenet1_0": (15, 7),
    "hacnn": (10, 4),
}


@pytest.mark.parametrize("name", list(GRIDS))
def test_stock_models_have_maps(name):
    """The last of the widest maps; squeezenet changes its maps in place, hacnn has branches of image regions."""
    method = build_method(default_config(name, None, ["model.pretrained", False]), 4, 2, pretrained=False).eval()
    size = (160, 64) if name == "hacnn" else (256, 128)
    images = torch.rand(2, 3, *size)
    others = torch.rand(2, method.embed(images[:1]).vector.shape[1])
    cam = grad_cam(method, images, None, others)
    assert cam.shape == (2, *GRIDS[name]) and bool(cam.isfinite().all()) and float(cam.max()) > 0
    with pytest.raises(ConfigError, match="gives no attention of a class token"):
        rollout(method, images, None)
