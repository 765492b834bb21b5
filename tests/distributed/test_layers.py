"""Layers that see a whole batch while rows of it are computed: in one process they compute what they always do."""

from functools import partial

import pytest
import torch
from timm.layers import BatchNormAct2d, DropPath
from torch.nn import functional as F

from occplug.distributed import layers
from occplug.distributed.layers import replacement
from occplug.distributed.ranks import ONE, Ranks
from occplug.distributed.split import Draws, Part, Plan, SplitImages, _computing
from occplug.distributed.splitter import Splitter
from occplug.errors import ConfigError, TrainingError

DRAWS = Draws(torch.device("cpu"), "a tower")


class Tower(torch.nn.Module):
    """Draws by modules and in ways of its own."""

    splits = "images"

    def __init__(self, own, rate=0.5):
        super().__init__()
        self.own, self.drop, self.path = own, torch.nn.Dropout(rate), DropPath(rate)

    def forward(self, images):
        return self.path(self.own(self.drop(images)))


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("own", [F.dropout, partial(F.rrelu, training=True), lambda x: x + torch.randn_like(x)])
def test_numbers_drawn_for_a_micro_batch_alone_are_refused(own, rate):
    tower, images, splitter = Tower(own, rate), torch.randn(6, 3, 4, 2), Splitter(ONE, 2)
    with splitter.installed(tower), pytest.raises(TrainingError, match="Tower draws random numbers for the images of"):
        tower(SplitImages(images, Plan(ONE, [0, 6], 2)))


def test_numbers_that_modules_draw_for_the_whole_batch_are_accepted():
    tower, images, splitter = Tower(torch.sin), torch.randn(6, 3, 4, 2), Splitter(ONE, 2)
    torch.manual_seed(1)
    expected = tower(images)
    with splitter.installed(tower):
        torch.manual_seed(1)
        assert torch.equal(tower(SplitImages(images, Plan(ONE, [0, 6], 2))), expected)


@pytest.mark.parametrize("kind", [torch.nn.BatchNorm2d, BatchNormAct2d])
def test_batch_norm_of_a_whole_batch_is_the_plain_one(kind, monkeypatch):
    """Micro-batches of one process that hold the whole batch: there is nobody to exchange statistics with."""
    monkeypatch.delattr(layers, "normalised")
    ours, theirs = kind(4), kind(4)
    x = 2 * torch.randn(6, 4, 5, 3) + 1
    with _computing(Part(Plan(ONE, [0, 6], micro_batch=6), slice(0, 6), DRAWS)):
        assert torch.equal(replacement(ours, "bn")(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)


@pytest.mark.parametrize("rank", [0, 1])
def test_batch_norm_refuses_micro_batches_on_all_ranks_alike(rank):
    """Else the rank that has one micro-batch would wait for ever for the one that has refused."""
    plan = Plan(Ranks(rank, 2), [0, 6, 10], micro_batch=5)
    with (
        _computing(Part(plan, plan.own, DRAWS)),
        pytest.raises(ConfigError, match="train.micro_batch is 5, but the batch no"),
    ):
        replacement(torch.nn.BatchNorm2d(4), "bn")(torch.randn(4, 4, 5, 3))


def test_timms_batch_norm_with_an_activation_counts_the_whole_batch(monkeypatch):
    monkeypatch.setattr(Ranks, "sum_", lambda ranks, tensor: tensor)
    ours, theirs = (BatchNormAct2d(4, act_layer=torch.nn.SiLU) for _ in range(2))
    x = 2 * torch.randn(6, 4, 5, 3) + 1
    forward = replacement(ours, "bn")
    assert torch.equal(forward(x), theirs(x))
    with _computing(Part(Plan(Ranks(0, 2), [0, 6, 6]), slice(0, 6), DRAWS)):
        torch.testing.assert_close(forward(x), theirs(x))
        torch.testing.assert_close(ours.running_var, theirs.running_var)
    with (
        _computing(Part(Plan(ONE, [0, 6], micro_batch=2), slice(0, 2), DRAWS)),
        pytest.raises(ConfigError, match="the batch norm bn takes its statistics over the whole batch"),
    ):
        forward(x[:2])
