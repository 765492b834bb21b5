"""Batch-hard triplet against nested loops, torchreid's own loss, and its edges."""

import math

import pytest
import torch

from occplug.losses import BatchHardTriplet


def by_hand(features, labels, margin):
    total, count = 0.0, 0
    rows = [[float(v) for v in f] for f in features]
    for i, anchor in enumerate(rows):
        d = [math.sqrt(max(sum((u - v) ** 2 for u, v in zip(anchor, other)), 1e-12)) for other in rows]
        positive = max(d[j] for j in range(len(rows)) if labels[j] == labels[i])
        negatives = [d[j] for j in range(len(rows)) if labels[j] != labels[i]]
        if not negatives:
            continue
        gap = positive - min(negatives)
        total += math.log1p(math.exp(gap)) if margin is None else max(0.0, gap + margin)
        count += 1
    return total / count


@pytest.mark.parametrize("margin", [0.3, 1.5, None])
def test_equals_nested_loops_with_unequal_identities(margin):
    features = torch.randn(9, 6, generator=torch.Generator().manual_seed(3))
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    expected = by_hand(features, labels.tolist(), margin)
    assert BatchHardTriplet(margin)(features, labels).item() == pytest.approx(expected, rel=1e-4)


def test_equals_torchreid():
    from occplug.torchreid_host import sub

    features, labels = torch.randn(16, 8, generator=torch.Generator().manual_seed(4)), torch.arange(16) // 4
    theirs = sub("losses").TripletLoss(margin=0.3)(features, labels)
    assert BatchHardTriplet(0.3)(features, labels).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_one_identity_gives_zero_and_a_gradient():
    features = torch.randn(4, 3, requires_grad=True)
    loss = BatchHardTriplet(0.3)(features, torch.zeros(4))
    loss.backward()
    assert loss.item() == 0.0 and torch.isfinite(features.grad).all()


def test_equal_features_have_a_finite_gradient():
    features = torch.ones(4, 3, requires_grad=True)
    loss = BatchHardTriplet(0.3)(features, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(0.3, abs=1e-5) and torch.isfinite(features.grad).all()


def test_order_does_not_matter():
    features, labels = torch.randn(8, 4, generator=torch.Generator().manual_seed(5)), torch.arange(8) // 2
    order = torch.randperm(8, generator=torch.Generator().manual_seed(6))
    loss = BatchHardTriplet(0.3)
    assert loss(features[order], labels[order]).item() == pytest.approx(loss(features, labels).item(), rel=1e-5)
