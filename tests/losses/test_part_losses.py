"""ProFD's losses against loops over the written formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from occplug.errors import ConfigError
from occplug.losses import (
    AttentionAlign,
    PartDiversity,
    SpatialAlign,
    VisibilityFocal,
    patch_labels,
    visible_parts,
)

# ------------------------------------------------------------------ targets


def some_masks(b=2, channels=4, h=16, w=8):
    return torch.randn(b, channels, h, w).mul(3).softmax(dim=1)


@pytest.mark.parametrize("kernel, stride, grid", [(4, 4, (4, 2)), (4, 3, (5, 2)), (2, 2, (8, 4))])
def test_patch_labels_against_loops(kernel, stride, grid):
    masks = some_masks()
    labels = patch_labels(masks, kernel, stride)
    assert labels.shape == (2, 4, *grid)
    for b in range(2):
        for i in range(grid[0]):
            for j in range(grid[1]):
                window = masks[b, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
                mean = [float(channel.sum()) / kernel**2 for channel in window]
                total = sum(math.exp(64 * m) for m in mean)
                expected = [math.exp(64 * m) / total for m in mean]
                assert labels[b, :, i, j].tolist() == pytest.approx(expected, abs=1e-5)


def test_patch_labels_have_the_grid_of_the_published_models():
    assert patch_labels(torch.rand(1, 6, 64, 32), 4, 4).shape == (1, 6, 16, 8)
    assert patch_labels(torch.rand(1, 6, 64, 32), 4, 3).shape == (1, 6, 21, 10)


def test_a_part_is_visible_if_it_wins_anywhere():
    masks = torch.zeros(2, 4, 3, 2)
    masks[:, 0] = 0.5
    masks[0, 1, 2, 1] = 0.6  # part 1 wins once
    masks[0, 2, 0, 0] = 0.4  # part 2 is there, but the background is stronger
    masks[1, 3] = 0.9
    assert visible_parts(masks).tolist() == [[1, 0, 0], [0, 0, 1]]


# ------------------------------------------------------------------ alignment


def bilinear(image, size):
    """Corners aligned, by loops; image [h, w]."""
    (h, w), (rows, columns) = image.shape, size
    out = torch.zeros(size, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            y, x = i * (h - 1) / (rows - 1), j * (w - 1) / (columns - 1)
            top, left = min(int(y), h - 2), min(int(x), w - 2)
            a, b = y - top, x - left
            out[i, j] = (
                image[top, left] * (1 - a) * (1 - b)
                + image[top, left + 1] * (1 - a) * b
                + image[top + 1, left] * a * (1 - b)
                + image[top + 1, left + 1] * a * b
            )
    return out


@pytest.mark.parametrize("gain, smoothing", [(5.0, 0.1), (1.0, 0.0)])
def test_spatial_align_against_loops(gain, smoothing):
    cosines, labels, size = torch.rand(2, 3, 4, 2) * 2 - 1, torch.rand(2, 3, 4, 2).softmax(1), (9, 5)
    terms = []
    for b in range(2):
        scores = torch.stack([gain * bilinear(c.double(), size) for c in cosines[b]])
        targets = torch.stack([bilinear(c.double(), size) for c in labels[b]])
        for i in range(size[0]):
            for j in range(size[1]):
                log_p = scores[:, i, j] - scores[:, i, j].exp().sum().log()
                y = int(targets[:, i, j].argmax())
                terms.append(-(1 - smoothing) * log_p[y] - smoothing * log_p.mean())
    loss = SpatialAlign(gain, smoothing)(cosines, labels, size)
    assert loss.item() == pytest.approx(float(sum(terms) / len(terms)), rel=1e-5)


# ------------------------------------------------------------------ attention


def attention_loss(attention, labels, temperature=0.01, eps=1e-5):
    """Loops over images, rows and patches; labels [B, K + 1, L]."""
    total, rows = 0.0, 0
    for a, p in zip(attention.tolist(), labels.tolist()):
        targets = [p[0], [1 - x for x in p[0]], *p[1:]]
        for row, target in zip(a, targets):
            top = max(target)
            weights = [math.exp((t - top) / temperature) for t in target]
            total -= sum(w / sum(weights) * math.log(x + eps) for w, x in zip(weights, row))
            rows += 1
    return total / rows


def test_attention_align_against_loops():
    logits = torch.randn(2, 5, 6)
    labels = torch.rand(2, 4, 6).softmax(dim=1)
    expected = attention_loss(logits.softmax(2), labels)
    assert AttentionAlign()(logits, labels).item() == pytest.approx(expected, rel=1e-5)
    mean = (logits.softmax(2) + torch.randn(2, 5, 6).softmax(2)) / 2
    grid = labels.unflatten(2, (3, 2))
    assert AttentionAlign().of_attention(mean, grid).item() == pytest.approx(attention_loss(mean, labels), rel=1e-5)


def test_an_absent_part_wants_attention_everywhere():
    labels = torch.zeros(1, 3, 8)
    labels[:, 0] = 1.0  # all background
    logits = torch.zeros(1, 4, 8, requires_grad=True)
    AttentionAlign()(logits, labels).backward()
    assert logits.grad[0, 2:].abs().max() < 1e-7, "a flat map is right for the absent parts"


def test_attention_align_names_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(1, 4, 8\) and \(1, 4, 8\)"):
        AttentionAlign()(torch.zeros(1, 4, 8), torch.zeros(1, 4, 8))


# ------------------------------------------------------------------ diversity


def pair_similarities(parts):
    rows = []
    for image in parts.double():
        rows.append(
            torch.stack(
                [
                    (image[i] @ image[j]).abs() / (image[i].norm() * image[j].norm() + 1e-6)
                    for i in range(len(image))
                    for j in range(i + 1, len(image))
                ]
            )
        )
    return rows


def test_diversity_against_loops():
    parts = torch.randn(3, 4, 6)
    rows = pair_similarities(parts)
    weighted = sum(sum(d.exp() / d.exp().sum() * d) for d in rows) / 3
    mean = sum(sum(d) / 6 for d in rows) / 3
    assert PartDiversity()(parts).item() == pytest.approx(float(weighted), rel=1e-5)
    assert PartDiversity("mean")(parts).item() == pytest.approx(float(mean), rel=1e-5)
    paper = sum(sum(d) / (4 * 3) for d in rows) / 3  # eq. 12
    assert PartDiversity("paper")(parts).item() == pytest.approx(float(paper), rel=1e-5)


def test_the_gradient_of_diversity_flows_through_its_weights():
    parts = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    weighted = sum(sum(d.softmax(0) * d) for d in pair_similarities(parts)) / 2
    (expected,) = torch.autograd.grad(weighted, parts)
    fixed = sum(sum(d.softmax(0).detach() * d) for d in pair_similarities(parts)) / 2
    (without,) = torch.autograd.grad(fixed, parts)
    (got,) = torch.autograd.grad(PartDiversity()(parts), parts)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(got, without, rtol=1e-2)


def test_one_part_is_diverse():
    assert PartDiversity()(torch.randn(2, 1, 4)).item() == 0


def test_an_unknown_weighting_is_refused():
    with pytest.raises(ConfigError, match="div_weighting is 'max'; there are: softmax, mean, paper"):
        PartDiversity("max")


# ------------------------------------------------------------------ visibility


@pytest.mark.parametrize("alpha, gamma", [(0.65, 2.0), (0.5, 0.0), (0.3, 1.5)])
def test_focal_against_loops(alpha, gamma):
    logits, targets = torch.randn(3, 5), torch.randint(2, (3, 5)).float()
    total = 0.0
    for z, t in zip(logits.flatten().tolist(), targets.flatten().tolist()):
        v = 1 / (1 + math.exp(-z))
        total += -alpha * (1 - v) ** gamma * math.log(v) if t else -(1 - alpha) * v**gamma * math.log(1 - v)
    assert VisibilityFocal(alpha, gamma)(logits, targets).item() == pytest.approx(total / 15, rel=1e-5)


def test_focal_of_half_is_weighted_cross_entropy():
    logits, targets = torch.randn(4, 2), torch.randint(2, (4, 2)).float()
    expected = F.binary_cross_entropy_with_logits(logits, targets) / 2
    assert VisibilityFocal(0.5, 0.0)(logits, targets).item() == pytest.approx(expected.item(), rel=1e-5)


def test_focal_takes_what_is_seen_as_truth_values():
    logits, targets = torch.randn(4, 2), torch.rand(4, 2) > 0.5
    assert torch.equal(VisibilityFocal()(logits, targets), VisibilityFocal()(logits, targets.float()))
    assert VisibilityFocal()(logits, targets.double()).dtype == torch.float32


def test_focal_stays_finite_where_the_sigmoid_saturates():
    logits = torch.tensor([[200.0, -200.0, 200.0, -200.0]], requires_grad=True)
    loss = VisibilityFocal()(logits, torch.tensor([[0.0, 1.0, 1.0, 0.0]]))
    loss.backward()
    assert loss.item() == pytest.approx((0.35 * 200 + 0.65 * 200) / 4, rel=1e-4)
    assert torch.isfinite(logits.grad).all() and logits.grad[0, 0] > 0 > logits.grad[0, 1]
