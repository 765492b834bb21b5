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


@pytest.mark.parametrize("margin", [0.3, None])
@pytest.mark.parametrize("counts", [(3, 2, 4), (3, 2, 1)])
def test_anchors_that_are_left_out_change_nothing(margin, counts):
    """Against the rows taken out of the batch: to the bit where none is, else up to the order of the sum."""
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    start = torch.randn(len(labels), 6, generator=torch.Generator().manual_seed(7))
    ineligible = torch.zeros(len(labels), len(labels), dtype=torch.bool)
    ineligible[-1] = counts[-1] == 1  # the last anchor has no negative

    def taken_out(features):
        square = features.pow(2).sum(dim=1)
        distance = (square[:, None] + square[None, :] - 2 * features @ features.T).clamp(min=1e-12).sqrt()
        same = labels[:, None] == labels[None, :]
        negative = ~same & ~ineligible
        valid = negative.any(dim=1)
        positive = distance.masked_fill(~same, float("-inf")).amax(dim=1)
        gap = (positive - distance.masked_fill(~negative, float("inf")).amin(dim=1))[valid]
        return (torch.nn.functional.softplus(gap) if margin is None else (gap + margin).relu()).sum() / valid.sum()

    losses, gradients = [], []
    for loss in (taken_out, lambda features: BatchHardTriplet(margin)(features, labels, ineligible)):
        features = start.clone().requires_grad_()
        losses.append(loss(features))
        gradients.append(torch.autograd.grad(losses[-1], features)[0])
    assert ineligible.any() == (counts[-1] == 1) and gradients[0].any()
    close = {"rtol": 1e-6, "atol": 1e-7} if ineligible.any() else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(losses[1], losses[0], **close)
    torch.testing.assert_close(gradients[1], gradients[0], **close)
