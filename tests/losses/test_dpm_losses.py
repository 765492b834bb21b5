"""The losses of DPM, SPT and DPM++ against loops over their formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from occplug.losses import AngularMargin, BatchHardTriplet, Budget, HeadDiversity, IgnoringCrossEntropy


def plain_margin(cosine, labels, scale, margin):
    total = 0.0
    for row, label in zip(cosine.tolist(), labels.tolist()):
        theta = math.acos(row[label])
        if theta + margin < math.pi:
            phi = math.cos(theta + margin)
        else:
            phi = row[label] - margin * math.sin(math.pi - margin)
        logits = [scale * (phi if k == label else c) for k, c in enumerate(row)]
        total += math.log(sum(math.exp(v - logits[label]) for v in logits))
    return total / len(labels)


@pytest.mark.parametrize("scale, margin", [(30.0, 0.5), (4.0, 0.3)])
def test_angular_margin_on_both_branches(scale, margin):
    cosine = torch.tensor([[0.3, -0.2, 0.9], [-0.97, 0.1, 0.0], [0.2, 0.1, -0.85]])  # the second falls back
    labels = torch.tensor([1, 0, 2])
    assert -0.97 < math.cos(math.pi - margin) < 0.3 and -0.2 > math.cos(math.pi - margin)
    expected = plain_margin(cosine, labels, scale, margin)
    assert AngularMargin(scale, margin)(cosine, labels).item() == pytest.approx(expected, rel=1e-5)
    assert AngularMargin(scale, 0.0)(cosine, labels).item() == pytest.approx(
        F.cross_entropy(scale * cosine, labels).item(), rel=1e-5
    )


@pytest.mark.parametrize("edge", [1.0, -1.0])
def test_angular_margin_has_no_nan_at_the_edges(edge):
    cosine = torch.tensor([[edge, 0.0], [0.0, edge]], requires_grad=True)
    loss = AngularMargin(30.0, 0.5)(cosine, torch.tensor([0, 1]))
    loss.backward()
    assert loss.isfinite() and cosine.grad.isfinite().all() and (cosine.grad.diagonal() <= 0).all()


def test_angular_margin_leaves_the_ignored_class_out():
    cosine, labels = torch.rand(4, 5) - 0.5, torch.tensor([0, 1, 2, 3])
    ignored = torch.tensor([4, 3, 0, -1])
    expected = 0.0
    for i in range(4):
        kept = [c for c in range(5) if c != ignored[i]]
        expected += plain_margin(cosine[i : i + 1, kept], torch.tensor([kept.index(labels[i])]), 30.0, 0.5) / 4
    assert AngularMargin(30.0, 0.5)(cosine, labels, ignored).item() == pytest.approx(expected, rel=1e-5)


def test_head_diversity_is_summed_over_the_batch_and_divided_by_squared_heads():
    scores = torch.randn(3, 4, 7)
    expected = 0.0
    for image in scores.tolist():
        rows = [[v / math.sqrt(sum(u * u for u in row) + 1e-6) for v in row] for row in image]
        for h, a in enumerate(rows):
            for k, b in enumerate(rows):
                expected += (sum(x * y for x, y in zip(a, b)) - (h == k)) ** 2 / 16
    assert HeadDiversity()(scores).item() == pytest.approx(expected, rel=1e-5)
    assert HeadDiversity()(torch.cat([scores, scores])).item() == pytest.approx(2 * expected, rel=1e-5)
    same = torch.randn(1, 1, 7).expand(2, 4, 7)
    assert HeadDiversity()(same).item() == pytest.approx(2 * 12 / 16, rel=1e-4)  # all off-diagonal entries are 1


def test_budget_is_the_square_of_the_batchs_mean():
    saliency = torch.tensor([[0.0, 0.2], [0.4, 0.6]], requires_grad=True)  # mean 0.3; per image 0.1 and 0.5
    assert Budget(0.3)(saliency).item() == pytest.approx(0.0, abs=1e-12)
    loss = Budget(0.1)(saliency)
    assert loss.item() == pytest.approx(0.04, rel=1e-5)
    loss.backward()
    assert torch.allclose(saliency.grad, torch.full((2, 2), 2 * 0.2 / 4))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ignoring_nothing_is_torchs_cross_entropy(smoothing):
    logits, labels = torch.randn(6, 5), torch.randint(5, (6,))
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    loss = IgnoringCrossEntropy(smoothing)
    torch.testing.assert_close(loss(logits, labels), expected)
    torch.testing.assert_close(loss(logits, labels, torch.full((6,), -1)), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ignoring_is_the_loss_without_that_column(smoothing):
    logits, labels = torch.randn(3, 5, requires_grad=True), torch.tensor([0, 2, 4])
    ignored = torch.tensor([3, -1, 0])
    loss = IgnoringCrossEntropy(smoothing)(logits, labels, ignored)
    expected = 0.0
    for i in range(3):
        kept = [c for c in range(5) if c != ignored[i]]
        target = torch.tensor([kept.index(labels[i])])
        expected += F.cross_entropy(logits[i : i + 1, kept], target, label_smoothing=smoothing) / 3
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad.isfinite().all() and logits.grad[0, 3] == 0 == logits.grad[2, 0]


def test_triplet_passes_over_ineligible_negatives():
    features, labels = torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    ineligible = torch.zeros(6, 6, dtype=torch.bool)
    ineligible[0, [2, 3]] = True
    ineligible[4, :4] = True  # no negative is left: the anchor is skipped
    distance = torch.cdist(features, features)
    gaps = []
    for a in (0, 1, 2, 3, 5):
        positive = max(distance[a, j] for j in range(6) if labels[j] == labels[a])
        negative = min(distance[a, j] for j in range(6) if labels[j] != labels[a] and not ineligible[a, j])
        gaps.append(positive - negative)
    for margin, expected in (
        (0.3, sum(max(0.0, float(g) + 0.3) for g in gaps) / 5),
        (None, sum(math.log1p(math.exp(float(g))) for g in gaps) / 5),
    ):
        assert BatchHardTriplet(margin)(features, labels, ineligible).item() == pytest.approx(expected, rel=1e-4)
    every = torch.ones(6, 6, dtype=torch.bool)
    assert BatchHardTriplet(0.3)(features, labels, every).item() == 0.0
