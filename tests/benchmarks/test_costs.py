"""The cost of DPL-ReID's parts: operations against a hand count, rows, and what the stages train."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F

from benchmarks import costs
from occplug.config import load_config
from occplug.method import build_method


def test_products_convolutions_and_attention_are_counted_with_two_for_a_multiply_add():
    kernels, weights = torch.randn(5, 3, 2, 2), torch.randn(7, 5)

    def features(images, camids):
        x = F.conv2d(images, kernels, stride=2).flatten(2).transpose(1, 2)  # [2, 8, 5]
        heads = (x @ weights.T)[:, None]  # [2, 1, 8, 7]
        return F.scaled_dot_product_attention(heads, heads, heads)

    images = torch.randn(2, 3, 8, 4)
    convolution, product, attention = 2 * (8 * 5) * (3 * 2 * 2), 2 * 8 * 5 * 7, 2 * (2 * 8 * 8 * 7)
    counted = costs.flops(SimpleNamespace(features=features), images)
    assert counted == 2 * (convolution + product + attention)


def test_rows_are_those_of_the_table_and_what_they_train_is_counted():
    settings = costs.parts("dpl_reid_synthocc", ("lsnet_mini",))
    assert list(settings) == ["CLIP-ReID", "+ Dual-PL + RWOA", "+ WGFF (lsnet_mini): DPL-ReID"]
    cfgs = {
        title: load_config(costs.CONFIGS / "dpl_reid_synthocc.yaml", ["backbone.weights", "none", *options])
        for title, options in settings.items()
    }
    base, dual, whole = cfgs.values()
    assert [cfg.method.prompts for cfg in (base, dual, whole)] == ["full", "dual", "dual"]
    assert [cfg.backbone.name for cfg in (base, dual, whole)] == ["clip_vit_tiny", "clip_vit_tiny", "wgff"]
    assert whole.backbone.wgff.lsnet == "lsnet_mini" and whole.backbone.wgff.weights == "none"
    counts = [costs._trained(build_method(cfg, 20, 2, pretrained=False)) for cfg in (base, dual, whole)]
    tokens = 20 * 4 * 128  # identities, tokens, width
    assert counts[0][0] == tokens and counts[1][0] == counts[2][0] == 3 * tokens  # M of both texts, and N
    assert counts[0][1] == counts[1][1] < counts[2][1]
