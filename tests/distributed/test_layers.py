"""Layers that see a whole batch while rows of it are computed: in one process they compute what they always do."""

import pytest
import torch
from timm.layers import BatchNormAct2d

from occplug.distributed import layers
from occplug.distributed.layers import replacement
from occplug.distributed.ranks import ONE, Ranks
from occplug.distributed.split import Part, Plan, _computing
from occplug.errors import ConfigError


@pytest.mark.parametrize("kind", [torch.nn.BatchNorm2d, BatchNormAct2d])
def test_batch_norm_of_a_whole_batch_is_the_plain_one(kind, monkeypatch):
    """Micro-batches of one process that hold the whole batch: there is nobody to exchange statistics with."""
    monkeypatch.delattr(layers, "_normalised")
    ours, theirs = kind(4), kind(4)
    x = 2 * torch.randn(6, 4, 5, 3) + 1
    with _computing(Part(Plan(ONE, [0, 6], micro_batch=6), slice(0, 6))):
        assert torch.equal(replacement(ours, "bn")(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("rank", [0, 1])
def test_batch_norm_refuses_micro_batches_on_all_ranks_alike(rank):
    """Else the rank that has one micro-batch would wait for ever for the one that has refused."""
    plan = Plan(Ranks(rank, 2), [0, 6, 10], micro_batch=5)
    with _computing(Part(plan, plan.own)), pytest.raises(ConfigError, match="train.micro_batch is 5, but the batch no"):
        replacement(torch.nn.BatchNorm2d(4), "bn")(torch.randn(4, 4, 5, 3))


def test_timms_batch_norm_with_an_activation_counts_the_whole_batch(monkeypatch):
    monkeypatch.setattr(Ranks, "sum_", lambda ranks, tensor: tensor)
    ours, theirs = (BatchNormAct2d(4, act_layer=torch.nn.SiLU) for _ in range(2))
    x = 2 * torch.randn(6, 4, 5, 3) + 1
    forward = replacement(ours, "bn")
    assert torch.equal(forward(x), theirs(x))
    with _computing(Part(Plan(Ranks(0, 2), [0, 6, 6]), slice(0, 6))):
        torch.testing.assert_close(forward(x), theirs(x))
        torch.testing.assert_close(ours.running_var, theirs.running_var)
    with (
        _computing(Part(Plan(ONE, [0, 6], micro_batch=2), slice(0, 2))),
        pytest.raises(ConfigError, match="the batch norm bn takes its statistics over the whole batch"),
    ):
        forward(x[:2])
