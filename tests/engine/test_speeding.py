"""run.compile and run.fused: in place, off by default, the same results up to rounding."""

import pytest
import torch
from torch import nn

from occplug.config import default_config
from occplug.engine import speeding
from occplug.engine.resuming import restore_moments
from occplug.engine.speeding import compiled, fused
from occplug.errors import ConfigError
from occplug.method import build_method
from occplug.stages import optimiser


@pytest.mark.parametrize("options", [[], ["method.spt", True]])
def test_a_compiled_tower_computes_the_same_in_place(options):
    torch.manual_seed(0)
    cfg = default_config("clip_reid", "clip_vit_tiny", ["backbone.weights", "none", *options])
    method = build_method(cfg, 5, 2, pretrained=False).eval()
    images, names = torch.randn(3, 3, cfg.data.height, cfg.data.width), list(method.state_dict())

    def results():
        method.zero_grad()
        features = method.features(images).vector
        features.square().sum().backward()
        return [features.detach(), *(p.grad.clone() for p in method.parameters() if p.grad is not None)]

    expected = results()
    calls = []

    def backend(graph, examples):  # what torch.compile would hand to its compiler
        calls.append(graph)
        return graph.forward

    with compiled(method, backend=backend):
        found = results()
        assert list(method.state_dict()) == names
    assert calls and len(found) == len(expected) > 50
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)
    assert all("forward" not in module.__dict__ for module in method.modules())


def test_towers_within_a_tower_are_compiled_with_it():
    inner, outer = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2))
    outer.add_module("inner", inner)
    model = nn.ModuleDict({"image": outer, "text": nn.Linear(2, 2)})
    outer.splits, inner.splits, model["text"].splits = "images", "images", "rows"
    assert speeding._outermost(model) == [outer]
    with pytest.raises(ConfigError, match="run.compile: Linear has no image tower"), compiled(nn.Linear(2, 2)):
        pass


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_fused_steps_are_the_plain_ones_up_to_rounding(name):
    draws = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(40, generator=draws), torch.randn(20, 40, generator=draws)
    ends, optimizers = [], []
    for is_fused in (False, True):
        weights = [nn.Parameter(start[:30].clone()), nn.Parameter(start[30:].clone())]
        groups = [{"params": [w], "lr": 10**-n, "weight_decay": 0.1 * n} for n, w in enumerate(weights, start=1)]
        optimizer = optimiser(name)(groups)
        optimizer = fused(optimizer) if is_fused else optimizer
        for row in gradients:
            for weight, gradient in zip(weights, row.split([30, 10])):
                weight.grad = gradient.clone()
            optimizer.step()
        ends.append(torch.cat(weights).detach())
        optimizers.append(optimizer)
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
    assert [g["lr"] for g in optimizers[1].param_groups] == [0.1, 0.01]
    assert [g["weight_decay"] for g in optimizers[1].param_groups] == pytest.approx([0.1, 0.2])
    assert all(g["fused"] for g in optimizers[1].param_groups)
    assert optimizers[0].defaults.get("momentum") == optimizers[1].defaults.get("momentum")
    restore_moments(optimizers[1], optimizers[0].state_dict(), "last.pth")  # a run may change the key when it resumes
    restore_moments(optimizers[0], optimizers[1].state_dict(), "last.pth")


def test_an_optimiser_without_a_fused_form_is_named():
    with pytest.raises(ConfigError, match="run.fused: torch has no fused RMSprop"):
        fused(torch.optim.RMSprop([nn.Parameter(torch.zeros(1))]))
