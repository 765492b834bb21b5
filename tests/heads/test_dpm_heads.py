"""Saliency net and mask generator against their formulas."""

import pytest
import torch
import torch.nn.functional as F

from occplug.backbones import ViT
from occplug.errors import ConfigError
from occplug.heads import MaskGenerator, SaliencyNet
from occplug.losses import BatchHardTriplet
from occplug.stages import saliency_losses

SMALL = {"image_size": 80, "patch_size": 16, "width": 32, "layers": 4, "heads": 4}
SIZE = (96, 64)  # grid 6 x 4


def net():
    torch.manual_seed(3)
    found = SaliencyNet(ViT(SMALL, SIZE), 5, [1, 2, 4])
    torch.nn.init.normal_(found.neck.classifier.weight)
    return found


def test_saliency_is_a_sigmoid_of_the_levels_patches():
    sps, images = net().eval(), torch.randn(2, 3, *SIZE)
    streams = sps.backbone(images, blocks=[1, 2, 4]).blocks
    weight, bias = sps.decision.weight[0, :, 0, 0], sps.decision.bias[0]
    for b in range(2):
        for n in (0, 7, 23):
            vector = torch.cat([streams[level][b, 1 + n] for level in (1, 2, 4)])
            expected = 1 / (1 + torch.exp(-(weight @ vector + bias)))
            assert sps.saliency(images)[b, n].item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_second_and_third_pass_scale_the_patch_embedding():
    sps, images = net().eval(), torch.randn(2, 3, *SIZE)
    _, plain, s, kept, dropped = sps(images)
    base = sps.backbone
    patches = base.embed_patches(images)
    for scale, found in ((torch.ones_like(s), plain), (s, kept), (1 - s, dropped)):
        x = base.run_blocks(base.add_positions(patches * scale[:, :, None], None), 0, 4)
        expected = sps.neck.classifier(sps.neck.norm(base.visual.norm(x)[:, 0]))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_saliency_losses_are_the_terms_of_the_specification():
    sps, images, labels = net().eval(), torch.randn(4, 3, *SIZE), torch.tensor([0, 0, 3, 4])
    with torch.no_grad():
        feature, plain, s, kept, dropped = sps(images)
        found = saliency_losses(sps, images, labels, 0.3)
    p, q = plain.softmax(1), dropped.softmax(1)
    expected = {
        "loss_id": F.cross_entropy(plain, labels),
        "loss_keep": F.cross_entropy(kept, labels),
        "loss_tri": BatchHardTriplet(None)(feature, labels),
        "loss_budget": (sum(float(v) for v in s.flatten()) / s.numel() - 0.3) ** 2,
        "loss_orth": sum(float(p[i, c] * q[i, c]) for i in range(4) for c in range(5)),
    }
    assert {k: float(v) for k, v in found.items()} == pytest.approx(
        {k: float(v) for k, v in expected.items()}, rel=1e-4
    )


def test_the_decision_layer_learns_through_scaled_passes_and_budget_only():
    """The concatenated features are detached: the budget reaches the decision layer and nothing below it."""
    sps = net()
    saliency_losses(sps, torch.randn(4, 3, *SIZE), torch.tensor([0, 0, 1, 1]), 0.3)["loss_budget"].backward()
    reached = {name for name, p in sps.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached == {"decision.weight", "decision.bias"}
    for name in ("loss_keep", "loss_orth"):
        sps.zero_grad()
        saliency_losses(sps, torch.randn(4, 3, *SIZE), torch.tensor([0, 0, 1, 1]), 0.3)[name].backward()
        assert sps.decision.weight.grad.abs().sum() > 0, name
    assert sps.backbone.visual.patch_embed.proj.weight.grad.abs().sum() > 0


def streams(batch=2, width=8, patches=24):
    return {level: torch.randn(batch, 1 + patches, width) for level in (1, 3)}


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_the_mask_generator_is_three_convolutions_and_a_linear_layer(pool):
    head = MaskGenerator(8, [1, 3], 5, (6, 4), 3, pool).eval()
    torch.nn.init.normal_(head.linear.weight)
    x = streams()
    maps = torch.stack([x[level][:, 1:].transpose(1, 2).reshape(2, 8, 6, 4) for level in (1, 3)], 1).flatten(1, 2)
    first, second, third = (head.convolutions[i] for i in (0, 2, 4))
    y = F.max_pool2d(first(maps), 2)
    y = third(F.max_pool2d(second(y), 2))
    y = y.flatten(2).amax(2) if pool == "max" else y.flatten(2).mean(2)
    torch.testing.assert_close(head(x), (y @ head.linear.weight.T).sigmoid(), atol=1e-6, rtol=1e-5)
    assert [tuple(c[0].weight.shape) for c in (first, second, third)] == [(16, 16, 3, 3), (8, 16, 3, 3), (8, 8, 3, 3)]
    assert head(x).shape == (2, 5) and head({k: v[:1] for k, v in x.items()}).shape == (1, 5)


def test_every_mask_is_one_half_at_the_start():
    head = MaskGenerator(8, [1, 3], 5, (6, 4), 3)
    assert torch.equal(head(streams(4)), torch.full((4, 5), 0.5))


def test_gradients_of_the_mask_reach_the_patches():
    head, x = MaskGenerator(8, [1, 3], 5, (6, 4), 3), streams(4)
    torch.nn.init.normal_(head.linear.weight)
    x = {level: value.requires_grad_() for level, value in x.items()}
    head(x).sum().backward()
    assert x[1].grad[:, 1:].abs().sum() > 0 and x[1].grad[:, 0].abs().sum() == 0


def test_levels_pool_and_grid_that_cannot_work_are_named():
    with pytest.raises(ConfigError, match=r"method.mask_levels is \[2, 12\]; .* blocks 1 to 6"):
        MaskGenerator(8, [2, 12], 5, (6, 4), 6)
    with pytest.raises(ConfigError, match=r"method.mask_levels is \[0\]"):
        MaskGenerator(8, [0], 5, (6, 4), 6)
    with pytest.raises(ConfigError, match="method.mask_pool is 'avg'; there are: max, mean"):
        MaskGenerator(8, [2], 5, (6, 4), 6, "avg")
    with pytest.raises(ConfigError, match="the grid of patches twice, and 6x3 is below 4x4"):
        MaskGenerator(8, [2], 5, (6, 3), 6)
    with pytest.raises(ConfigError, match=r"method.saliency.levels is \[1, 1\]; .* blocks 1 to 4"):
        SaliencyNet(ViT(SMALL, SIZE), 5, [1, 1], "method.saliency.levels")


@pytest.mark.parametrize("depth, expected", [(12, (2, 4, 10, 12)), (6, (1, 2, 5, 6))])
def test_levels_default_to_dpms_at_every_depth(depth, expected):
    assert MaskGenerator(8, [], 5, (6, 4), depth).levels == expected
    assert MaskGenerator(8, [-1], 5, (6, 4), depth).levels == (depth,)
    assert MaskGenerator(8, [1, -2], 5, (6, 4), depth).levels == (1, depth - 1)
    for wrong in ([-depth - 1], [depth, -1]):
        with pytest.raises(ConfigError, match="method.mask_levels"):
            MaskGenerator(8, wrong, 5, (6, 4), depth)
    with pytest.raises(ConfigError, match=r"method.mask_levels is \['last'\]"):
        MaskGenerator(8, ["last"], 5, (6, 4), depth)
