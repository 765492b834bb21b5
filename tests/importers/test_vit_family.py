"""Official TransReID, DPM and SPT checkpoints: what they embed to, and what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F

from occplug.backbones.vit import SIZES
from occplug.errors import CheckpointError, ConfigError
from occplug.importers import load_official
from tests import vit_reference
from tests.clip_reference import bn_shapes, random_state

SIZE = (96, 64)  # grid 6 x 4
WIDTH, HEADS, LAYERS = 32, 4, 4


@pytest.fixture(autouse=True)
def small(request, monkeypatch):
    """A small ViT behind the full one's name, except where a test is about the full one."""
    if "full_size" not in request.node.name:
        sizes = {"image_size": 80, "patch_size": 16, "width": WIDTH, "layers": LAYERS, "heads": HEADS}
        monkeypatch.setitem(SIZES, "vit_b16", sizes)


def official(source, rows=25, width=WIDTH, layers=LAYERS, classes=5, cameras=0, levels=2):
    """A random state dict; the small ViT has two of the official levels, 2 and 4."""
    shapes = vit_reference.vit_shapes(rows, width, layers, prefix="base.")
    shapes |= {"base.fc.weight": (1000, width), "base.fc.bias": (1000,), "classifier.weight": (classes, width)}
    shapes |= bn_shapes("bottleneck", width)
    if cameras:
        shapes["base.sie_embed"] = (cameras, 1, width)
    if source == "dpm":
        for layer, out, into in ((0, 2, levels), (2, 1, 2), (4, 1, 1)):
            shapes[f"base.ConvLayer.{layer}.0.weight"] = (out * width, into * width, 3, 3)
            shapes[f"base.ConvLayer.{layer}.0.bias"] = (out * width,)
            shapes |= bn_shapes(f"base.ConvLayer.{layer}.1", out * width)
        shapes |= {"base.attfc.weight": (width, width), "base.attfc.bias": (width,)}
    if source == "spt_sps":
        shapes |= {"base.mixfc.weight": (1, levels * width, 1, 1), "base.mixfc.bias": (1,)}
    return random_state(shapes)


def maps(streams, levels, grid):
    return torch.cat([streams[n][:, 1:].transpose(1, 2).reshape(len(streams[n]), -1, *grid) for n in levels], 1)


def official_mask(state, streams, levels, grid):
    x = maps(streams, levels, grid)
    for layer in (0, 2, 4):
        name = f"base.ConvLayer.{layer}"
        x = F.conv2d(x, state[f"{name}.0.weight"], state[f"{name}.0.bias"], padding=1)
        wide = lambda key, n=name: state[f"{n}.1.{key}"][None, :, None, None]  # noqa: E731
        x = (x - wide("running_mean")) / torch.sqrt(wide("running_var") + 1e-5) * wide("weight") + wide("bias")
        x = x.relu()
        x = F.max_pool2d(x, 2) if layer < 4 else x.flatten(2).max(dim=2).values
    return torch.sigmoid(x @ state["base.attfc.weight"].T + state["base.attfc.bias"])


def run(state, images, stride=16, camids=None, heads=HEADS):
    camera = None if camids is None or "base.sie_embed" not in state else 3.0 * state["base.sie_embed"][camids, 0]
    return vit_reference.vit(state, images, heads, stride, camera, prefix="base.")


@pytest.mark.parametrize("source", ["transreid", "spt_reid", "dpm"])
@pytest.mark.parametrize("rows, stride, cameras", [(25, 16, 0), (36, 12, 3)])
def test_the_official_feature(source, rows, stride, cameras):
    state = official(source, rows, cameras=cameras)
    method = load_official(source, state, image_size=SIZE)
    images, camids = torch.randn(2, 3, *SIZE), torch.tensor([2, 0])
    _, feature, _ = run(state, images, stride, camids)
    embedding = method.embed(images, camids)
    torch.testing.assert_close(embedding.vector, feature, atol=1e-5, rtol=1e-4)
    assert (
        method.backbone.stride == stride and not method.training and (embedding.mask is not None) == (source == "dpm")
    )
    assert torch.equal(method.metric.neck.classifier.weight, state["classifier.weight"])
    assert torch.equal(method.metric.neck.norm.running_var, state["bottleneck.running_var"])


def test_dpms_masks_and_distances_are_official():
    state, images = official("dpm"), torch.randn(3, 3, *SIZE)
    method = load_official("dpm", {f"module.{k}": v for k, v in state.items()}, image_size=SIZE)
    streams, f, _ = run(state, images)
    mask = official_mask(state, streams, [2, 4], (6, 4))
    embedding = method.embed(images)
    torch.testing.assert_close(embedding.mask, mask, atol=1e-5, rtol=1e-4)
    found = method.distance(embedding, embedding)
    for q in range(3):
        for g in range(3):
            cosine = float(F.normalize(f[q], dim=0) @ F.normalize(mask[q] * f[g], dim=0))
            assert found[q, g].item() == pytest.approx(math.acos(min(max(cosine, -1 + 1e-5), 1 - 1e-5)), abs=2e-3)


def test_the_saliency_is_official():
    state, images = official("spt_sps"), torch.randn(2, 3, *SIZE)
    model = load_official("spt_sps", state, image_size=SIZE)
    streams, f, _ = run(state, images)
    weight, bias = state["base.mixfc.weight"], state["base.mixfc.bias"]
    expected = torch.sigmoid(F.conv2d(maps(streams, [2, 4], (6, 4)), weight, bias)).flatten(1)
    torch.testing.assert_close(model.saliency(images), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.embed(images).vector, f, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("source", ["transreid", "spt_reid", "dpm", "spt_sps"])
def test_what_does_not_fit_is_listed(source):
    state = official(source, cameras=0 if source == "spt_sps" else 2)
    state["bottleneck.bias"] = torch.zeros(7)
    state["b1.0.norm1.weight"] = torch.zeros(WIDTH)
    del state["base.norm.weight"]
    with pytest.raises(CheckpointError) as caught:
        load_official(source, state, image_size=SIZE)
    text = str(caught.value)
    assert f"bottleneck.bias is [7], expected [{WIDTH}]" in text
    assert "missing: base.norm.weight" in text and "unknown: b1.0.norm1.weight" in text


def test_the_feature_after_the_neck_is_the_batch_normed_one():
    images, state = torch.randn(3, 3, *SIZE), official("dpm")
    before, after = (load_official("dpm", state, image_size=SIZE, neck=neck) for neck in ("before", "after"))
    scale = state["bottleneck.weight"] / (state["bottleneck.running_var"] + 1e-5).sqrt()
    expected = (before.embed(images).vector - state["bottleneck.running_mean"]) * scale + state["bottleneck.bias"]
    torch.testing.assert_close(after.embed(images).vector, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(after.embed(images).mask, before.embed(images).mask)


def test_another_image_size_camera_count_or_neck_is_refused():
    state = official("dpm", cameras=2)
    with pytest.raises(CheckpointError, match="25 position rows fit no stride at 128x64; pass the image_size"):
        load_official("dpm", state, image_size=(128, 64))
    with pytest.raises(CheckpointError, match=r"base.sie_embed is \[2, 1, 32\], expected \[6, 1, 32\]"):
        load_official("dpm", state, image_size=SIZE, num_cameras=6)
    with pytest.raises(ConfigError, match="^neck is 'both'; there are: before, after"):
        load_official("dpm", state, image_size=SIZE, neck="both")
    with pytest.raises(ConfigError, match="neck is 'after'; a mask model"):
        load_official("spt_sps", official("spt_sps"), image_size=SIZE, neck="after")


def test_imagenets_classes_are_left_behind_and_said_so(caplog):
    with caplog.at_level("INFO"):
        load_official("spt_reid", official("spt_reid"), image_size=SIZE)
    assert "not used: base.fc.weight, base.fc.bias" in caplog.text


@pytest.mark.parametrize(
    "source, rows, cameras, entries",
    [("dpm", 243, 8, 182), ("spt_sps", 129, 0, 160), ("spt_reid", 129, 0, 158), ("transreid", 211, 6, 159)],
)
def test_full_size_layouts(source, rows, cameras, entries):
    state = official(source, rows, 768, 12, classes=702, cameras=cameras, levels=4)
    assert len(state) == entries
    model = load_official(source, state)
    if source == "dpm":
        images = torch.randn(1, 3, 256, 128)
        with torch.no_grad():
            streams, f, _ = run(state, images, 11, torch.tensor([7]), heads=12)
        embedding = model.embed(images, torch.tensor([7]))
        torch.testing.assert_close(embedding.vector, f, atol=1e-4, rtol=1e-4)
        mask = official_mask(state, streams, [2, 4, 10, 12], (22, 11))
        torch.testing.assert_close(embedding.mask, mask, atol=1e-4, rtol=1e-3)
