"""Layers that see a whole batch while rows of it are computed: in one process they compute what they always do."""

import pytest
import torch
from timm.layers import BatchNormAct2d

from occplug.distributed.layers import replacement
from occplug.distributed.ranks import ONE
from occplug.distributed.split import Part, Plan, _computing
from occplug.errors import ConfigError


def test_timms_batch_norm_with_an_activation_counts_the_whole_batch():
    torch.manual_seed(0)
    ours, theirs = (BatchNormAct2d(4, act_layer=torch.nn.SiLU) for _ in range(2))
    x = 2 * torch.randn(6, 4, 5, 3) + 1
    forward = replacement(ours, "bn")
    assert torch.equal(forward(x), theirs(x))
    with _computing(Part(Plan(ONE, [0, 6]), slice(0, 6))):
        torch.testing.assert_close(forward(x), theirs(x))
        torch.testing.assert_close(ours.running_var, theirs.running_var)
    with (
        _computing(Part(Plan(ONE, [0, 6], micro_batch=2), slice(0, 2))),
        pytest.raises(ConfigError, match="the batch norm bn takes its statistics over the whole batch"),
    ):
        forward(x[:2])
