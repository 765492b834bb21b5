"""The linear probe: optimal against the gradient of its objective, chance on noise, no leak through groups."""

import pytest
import torch

from occplug.evaluation.linear_probe import _fit, _shuffled, linear_probe, slot_accuracies


def test_the_fit_is_the_minimum_of_the_penalised_loss():
    """Plain gradient descent on weights in the original coordinates finds the same answers and probabilities."""
    x, labels = torch.randn(30, 4, dtype=torch.float64), torch.randint(3, (1, 30))
    w, b = torch.zeros(4, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for _ in range(4000):
        p = (x @ w + b).softmax(-1)
        p[torch.arange(30), labels[0]] -= 1
        w, b = w - 0.02 * (x.T @ p + 2.0 * w), b - 0.02 * p.sum(0)
    others = torch.randn(500, 4, dtype=torch.float64)
    agree = _fit(x, labels, 3, 2.0)(others)[0] == (others @ w + b).argmax(-1)
    assert agree.float().mean() > 0.99


def test_more_dimensions_than_samples_are_no_obstacle():
    labels = torch.arange(60) % 3
    vectors = torch.randn(60, 400)
    vectors[:, :20] += 3 * torch.randn(3, 20)[labels]
    probe = linear_probe(vectors, labels, torch.arange(60), shuffles=19)
    assert probe.accuracy > 0.8 and probe.p_value == 0.05 and 0.2 < probe.shuffled < 0.45
    assert (probe.count, probe.classes) == (60, 3)


def test_noise_is_read_at_chance():
    probe = linear_probe(torch.randn(120, 8), torch.arange(120) % 2, torch.arange(120), shuffles=39)
    assert 0.3 < probe.accuracy < 0.7 and probe.p_value > 0.05


def test_members_of_a_group_do_not_vouch_for_each_other():
    """Equal vectors and labels within a pair, nothing else: across folds there is nothing to learn."""
    group = torch.arange(100) // 2
    vectors, labels = torch.randn(50, 300)[group], torch.randint(2, (50,))[group]
    together = linear_probe(vectors, labels, group, shuffles=1)
    apart = linear_probe(vectors, labels, torch.arange(100), shuffles=1)
    assert together.accuracy < 0.7 < 0.8 < apart.accuracy


def test_shuffles_move_whole_groups():
    groups = torch.tensor([0, 0, 1, 2, 2, 3, 4, 4])
    order = _shuffled(groups, torch.Generator().manual_seed(3))
    assert sorted(order.tolist()) == list(range(8)) and order.tolist() != list(range(8))
    for pair in ([0, 1], [3, 4], [6, 7]):
        assert order[pair].tolist() in ([0, 1], [3, 4], [6, 7])


def test_slots_fitted_at_once_are_probes_of_their_own():
    labels, groups = torch.arange(60) % 3, torch.arange(60) // 2
    vectors = torch.randn(60, 2, 12)
    vectors[:, 1] += 2 * torch.randn(3, 12)[labels]
    single = slot_accuracies(vectors, labels, groups)
    apart = [linear_probe(vectors[:, j], labels, groups, shuffles=3).accuracy for j in range(2)]
    assert single == pytest.approx(apart, abs=0.02) and single[1] > single[0]


def test_the_majority_is_that_of_the_training_folds():
    labels = torch.tensor([0] * 30 + [1] * 10)
    assert linear_probe(torch.randn(40, 3), labels, torch.arange(40), shuffles=1).majority == pytest.approx(0.75)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="5 folds need equal lengths, two classes and 5 groups"):
        linear_probe(torch.randn(6, 2), torch.zeros(6), torch.arange(6))
    with pytest.raises(ValueError, match="in 3 groups"):
        linear_probe(torch.randn(6, 2), torch.arange(6), torch.arange(6) // 2)
