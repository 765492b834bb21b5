"""Distances against loops in float64 and against torchreid's."""

import pytest
import torch

from occplug import torchreid_host as host
from occplug.evaluation import cosine_distance, squared_euclidean


def test_squared_euclidean_against_loops():
    q, g = torch.randn(3, 5), torch.randn(4, 5)
    expected = [[sum((float(a) - float(b)) ** 2 for a, b in zip(x, y)) for y in g] for x in q]
    distances = squared_euclidean(q, g)
    assert distances.dtype == torch.float32
    torch.testing.assert_close(distances, torch.tensor(expected))


def test_cosine_against_loops():
    q, g = torch.randn(3, 5), 100 * torch.randn(4, 5)
    expected = [[1 - sum(a * b for a, b in zip(x, y)) / (x @ x * (y @ y)).sqrt() for y in g] for x in q]
    torch.testing.assert_close(cosine_distance(q, g), torch.tensor(expected))


def test_values_are_torchreids():
    theirs = host.sub("metrics.distance")
    q, g = torch.randn(6, 32), torch.randn(9, 32)
    torch.testing.assert_close(squared_euclidean(q, g), theirs.euclidean_squared_distance(q, g))
    torch.testing.assert_close(cosine_distance(q, g), theirs.cosine_distance(q, g))


def test_of_unit_vectors_it_is_two_minus_two_cosines():
    q, g = (torch.nn.functional.normalize(torch.randn(n, 16)) for n in (5, 7))
    torch.testing.assert_close(squared_euclidean(q, g), 2 - 2 * q @ g.T)


def test_equal_vectors_are_never_at_a_negative_distance():
    x = torch.nn.functional.normalize(torch.randn(200, 64))
    for distances in (squared_euclidean(x, x), cosine_distance(x, x)):
        assert distances.min() >= 0 and distances.diagonal().max() < 1e-5


def test_zero_vectors_and_half_precision():
    assert cosine_distance(torch.zeros(1, 3), torch.randn(2, 3)).tolist() == [[1, 1]]
    assert cosine_distance(torch.ones(1, 3), torch.zeros(2, 3)).tolist() == [[1, 1]]
    x = torch.randn(2, 8)
    assert squared_euclidean(x.half(), x.half()).dtype == torch.float32


@pytest.mark.parametrize("distance", [squared_euclidean, cosine_distance])
def test_shapes_that_do_not_fit_are_named(distance):
    with pytest.raises(ValueError, match=r"query is \[Q, D\] and gallery \[G, D\], got \(2, 3\) and \(2, 4\)"):
        distance(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"got \(3,\) and \(2, 3\)"):
        distance(torch.zeros(3), torch.zeros(2, 3))


def test_inputs_are_not_changed():
    q, g = torch.randn(3, 4), torch.randn(5, 4)
    before = q.clone(), g.clone()
    squared_euclidean(q, g), cosine_distance(q, g)
    assert torch.equal(q, before[0]) and torch.equal(g, before[1])


@pytest.mark.parametrize("distance", [squared_euclidean, cosine_distance])
def test_autocast_does_not_coarsen_them(distance):
    query, gallery = torch.randn(5, 16), torch.randn(7, 16)
    expected = distance(query, gallery)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = distance(query, gallery)
    assert found.dtype == torch.float32 and torch.equal(found, expected)
