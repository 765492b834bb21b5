"""The MLP with its factors in the weights against open_clip's: values, gradients, names."""

from collections import OrderedDict

import torch
from open_clip.transformer import QuickGELU
from torch import nn

from occplug.backbones import CLIPViT, architecture, build_text_tower
from occplug.backbones.quick_gelu import QuickGELUMLP


def test_values_and_gradients_are_open_clips():
    torch.manual_seed(0)
    layers = [("c_fc", nn.Linear(6, 24)), ("gelu", QuickGELU()), ("c_proj", nn.Linear(24, 6))]
    theirs = nn.Sequential(OrderedDict(layers)).double()
    ours = QuickGELUMLP(theirs)
    x = (3 * torch.randn(2, 5, 6, dtype=torch.float64)).requires_grad_()
    wanted = [x, *theirs.parameters()]
    for a, b in zip(*(torch.autograd.grad(mlp(x).sin().sum(), wanted) for mlp in (ours, theirs))):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours(x), theirs(x))
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_both_towers_use_it():
    sizes = architecture("clip_vit_tiny")
    blocks = [*CLIPViT(sizes, (128, 64)).layers, *build_text_tower(sizes).transformer.resblocks]
    assert all(isinstance(block.mlp, QuickGELUMLP) for block in blocks)
