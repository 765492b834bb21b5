"""No tower computes attention by hand where nobody asks for its weights: torch's kernels do, which never store them."""

import pytest
import torch
import torch.nn.functional as F

from occplug.backbones import architecture, build_text_tower
from occplug.config import default_config
from occplug.method import build_method

TOWERS = {
    "clip_vit_tiny": [],
    "vit_mini": [],
    "solider_swin_mini": [],
    "wgff": ["backbone.wgff.clip", "clip_vit_tiny", "backbone.wgff.lsnet", "lsnet_mini", "backbone.stride", 8],
}


@pytest.fixture
def no_softmax(monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("attention weights are computed")

    for owner in (torch.Tensor, torch, F):
        monkeypatch.setattr(owner, "softmax", refused)


@pytest.mark.parametrize("backbone", list(TOWERS))
@pytest.mark.parametrize("train", [False, True])
def test_image_towers_store_no_attention(no_softmax, backbone, train):
    cfg = default_config(
        "clip_reid", backbone, ["method.prompts", False, "backbone.weights", "none", *TOWERS[backbone]]
    )
    tower = build_method(cfg, 3, 2, pretrained=False).backbone.train(train)
    features = tower(torch.randn(2, 3, cfg.data.height, cfg.data.width))
    features.feature.sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in tower.parameters())
    with torch.no_grad():
        assert tower(torch.randn(2, 3, cfg.data.height, cfg.data.width)).feature.isfinite().all()


def test_text_towers_store_no_attention(no_softmax):
    text = build_text_tower(architecture("clip_vit_tiny"))
    tokens = torch.randn(2, 9, text.width, requires_grad=True)
    text(tokens, 8).sum().backward()
    assert tokens.grad.any()


def test_weights_that_are_asked_for_would_be_noticed(no_softmax):
    cfg = default_config("clip_reid", "clip_vit_tiny", ["backbone.weights", "none"])
    tower = build_method(cfg, 3, 2, pretrained=False).backbone
    x = torch.randn(2, 9, tower.width if hasattr(tower, "width") else 192)
    block = next(module for module in tower.modules() if hasattr(module, "attn"))
    with pytest.raises(AssertionError, match="attention weights are computed"):
        tower.block_and_attention(block, x[..., : block.ln_1.normalized_shape[0]])
