"""P x K batches: composition, exact length, repeatability, and what cannot be sampled."""

import random
from collections import Counter

import numpy as np
import pytest
import torch

from occplug.errors import ConfigError, DataError
from occplug.samplers import IdentitySampler


def items(*counts):
    return [(f"{pid}_{k}.jpg", pid, 0) for pid, count in enumerate(counts) for k in range(count)]


def batches(sampler, size):
    order = list(sampler)
    return [order[i : i + size] for i in range(0, len(order), size)]


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_batch_holds_p_identities_k_times(epoch):
    data = items(9, 5, 4, 13, 8, 2, 6)
    sampler = IdentitySampler(data, batch_size=12, num_instances=4)
    sampler.set_epoch(epoch)
    assert len(sampler) == len(list(sampler)) > 0
    for batch in batches(sampler, 12):
        assert sorted(Counter(data[i][1] for i in batch).values()) == [4, 4, 4]


def test_an_image_is_used_once_unless_its_identity_has_too_few():
    data = items(8, 8, 8, 2)
    sampler = IdentitySampler(data, batch_size=8, num_instances=4)
    for epoch in range(5):
        sampler.set_epoch(epoch)
        used = Counter(sampler)
        assert all(count == 1 for index, count in used.items() if data[index][1] != 3)
        few = [index for index in sampler if data[index][1] == 3]
        assert len(few) in (0, 4) and set(few) <= {24, 25}


def test_an_incomplete_group_is_dropped():
    """5 images and K = 4: one group; with P = 2 and two identities that is one batch."""
    assert len(IdentitySampler(items(5, 5), batch_size=8, num_instances=4)) == 8


def test_the_order_depends_on_seed_and_epoch_alone():
    data = items(*[8] * 10)
    first, again, other = (IdentitySampler(data, 16, 4, seed) for seed in (3, 3, 4))
    for sampler in (first, again, other):
        sampler.set_epoch(0)
    assert list(first) == list(again) != list(other)
    first.set_epoch(1)
    assert list(first) != list(again)
    first.set_epoch(0)
    assert list(first) == list(again)


def test_each_identity_is_drawn_about_equally_often():
    data = items(*[4] * 12)
    sampler, seen = IdentitySampler(data, 16, 4), Counter()
    for epoch in range(60):
        sampler.set_epoch(epoch)
        seen.update(data[i][1] for i in sampler)
    assert min(seen.values()) == max(seen.values()) == 240  # 12 identities, 3 batches of 4: all used every epoch


def test_what_cannot_be_sampled_is_explained():
    with pytest.raises(ConfigError) as caught:
        IdentitySampler(items(8, 8), batch_size=2, num_instances=4)
    assert str(caught.value) == (
        "train.batch_size is 2 and sampler.num_instances 4: the first must be a multiple of the second"
    )
    with pytest.raises(DataError) as caught:
        IdentitySampler(items(8, 8), batch_size=16, num_instances=4)
    assert str(caught.value) == (
        "a batch needs 4 identities (train.batch_size / sampler.num_instances) and the training set has 2; "
        "lower train.batch_size"
    )
    with pytest.raises(DataError) as caught:
        IdentitySampler(items(1, 1, 1, 1), batch_size=8, num_instances=4)
    assert str(caught.value) == (
        "every identity has a single training image, so there are no pairs to learn from; sampler 'identity' "
        "(sampler.train_sampler) needs at least two images of some identity"
    )


def test_without_set_epoch_every_pass_is_a_new_epoch_of_known_length():
    """torchreid's own data manager never calls `set_epoch`."""
    data = items(9, 5, 4, 13, 8, 2, 6)
    free, steered = (IdentitySampler(data, 12, 4, seed=5) for _ in range(2))
    for epoch in range(6):
        steered.set_epoch(epoch)
        expected = list(steered)
        assert list(steered) == expected, "a chosen epoch stays"
        assert len(free) == len(steered) == len(expected)
        assert list(free) == expected


def test_lengths_differ_between_epochs_and_are_still_known():
    """How many batches there are depends on the draw; torchreid's sampler only estimates it."""
    sampler = IdentitySampler(items(40, 4, 4, 8, 12), batch_size=12, num_instances=4)
    lengths = set()
    for _ in range(30):
        announced = len(sampler)
        lengths.add(announced)
        assert announced == len(list(sampler))
    assert len(lengths) > 1


def test_a_seed_that_is_not_given_comes_from_torchs_generator():
    data, orders = items(*[8] * 10), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(list(IdentitySampler(data, 16, 4)))
    assert orders[0] == orders[1] != orders[2]


def test_drawing_leaves_all_generators_alone():
    sampler = IdentitySampler(items(8, 8, 2), 8, 4, seed=1)
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    list(sampler)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(np.random.get_state()))
