"""SupCon against nested loops in float64, and its edges."""

import math

import pytest
import torch

from occplug.losses import SupCon


def by_hand(x, y, a, b):
    rows = []
    for i in range(len(x)):
        scores = [sum(float(u) * float(v) for u, v in zip(x[i], y[j])) for j in range(len(y))]
        top = max(scores)
        norm = top + math.log(sum(math.exp(s - top) for s in scores))
        hits = [scores[j] - norm for j in range(len(y)) if a[i] == b[j]]
        if hits:
            rows.append(-sum(hits) / len(hits))
    return sum(rows) / len(rows)


@pytest.mark.parametrize("seed", range(3))
def test_equals_nested_loops(seed):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(7, 5, generator=g), torch.randn(9, 5, generator=g)
    a, b = torch.randint(0, 3, (7,), generator=g), torch.arange(9) % 3
    assert SupCon()(x, y, a, b).item() == pytest.approx(by_hand(x, y, a.tolist(), b.tolist()), rel=1e-5)


def test_is_neither_normalised_nor_scaled():
    """Twice the vectors change the loss (dot product, temperature 1)."""
    x, label = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    assert SupCon()(2 * x, x, label, label) != SupCon()(x, x, label, label)


def test_duplicate_columns_share_the_probability():
    """Two equal rows of one label: each column of the pair gets half, so the loss is at least log 2."""
    x = torch.tensor([[50.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    label = torch.tensor([0, 0, 1])
    assert SupCon()(x, x, label, label).item() == pytest.approx(2 / 3 * math.log(2), rel=1e-5)


def test_a_row_without_its_label_is_left_out():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    label = torch.tensor([0, 1, 7])
    with_extra = SupCon()(x, x[:2], label, label[:2])
    assert with_extra.item() == pytest.approx(SupCon()(x[:2], x[:2], label[:2], label[:2]).item(), rel=1e-5)
    assert SupCon()(x, x, label, label + 10).item() == 0.0


def test_gradient():
    x = torch.randn(4, 3, dtype=torch.double, requires_grad=True)
    label = torch.tensor([0, 0, 1, 2])
    eps = 1e-3
    SupCon()(x, x.detach(), label, label).backward()
    shifted = x.detach().clone()
    shifted[1, 2] += eps
    change = (SupCon()(shifted, x.detach(), label, label) - SupCon()(x, x.detach(), label, label)).item() / eps
    assert x.grad[1, 2].item() == pytest.approx(change, rel=0.05, abs=1e-3)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"got \[\(2, 3\), \(2, 4\), \(2,\), \(2,\)\]"):
        SupCon()(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2), torch.zeros(2))
