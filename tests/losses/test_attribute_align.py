"""Eq. 8, 13 and 14 against loops, and the thresholds against an exhaustive search."""

import math

import pytest
import torch

from occplug.errors import ConfigError
from occplug.losses import AttributeAlign, noise_threshold, otsu_threshold
from occplug.registry import LOSSES, get


def cosine(a, v):
    return sum(x * y for x, y in zip(a, v)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in v))


def by_loops(predicted, target, gamma, mean=False):
    total, (n, r) = 0.0, predicted.shape[:2]
    for i in range(n):
        for j in range(r):
            c = cosine(predicted[i, j].tolist(), target[i, j].tolist())
            total += c if c > gamma else 0.0
    return -total / r / (n if mean else 1)


def test_by_hand_on_two_images_with_two_slots():
    predicted = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[0.0, 2.0], [-1.0, 0.0]]])
    target = torch.tensor([[[1.0, 0.0], [5.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    # cosines .6 and 1; 1 and -1
    assert AttributeAlign()(predicted, target).item() == pytest.approx(-(0.6 + 1 + 1 - 1) / 2)
    assert AttributeAlign("mean")(predicted, target).item() == pytest.approx(-0.4)
    assert AttributeAlign(threshold=0.0)(predicted, target).item() == pytest.approx(-2.6 / 2)
    assert AttributeAlign(threshold=0.7)(predicted, target).item() == pytest.approx(-2 / 2)
    predicted[1, 1] = torch.tensor([-4.0, 3.0])  # cosine -.8; otsu splits it from {.6, 1, 1}
    assert AttributeAlign(threshold="otsu")(predicted, target).item() == pytest.approx(-2.6 / 2)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("gamma", [None, -0.2, 0.1])
def test_against_loops(reduction, gamma):
    predicted, target = torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    expected = by_loops(predicted, target, -2 if gamma is None else gamma, reduction == "mean")
    assert AttributeAlign(reduction, gamma)(predicted, target).item() == pytest.approx(expected, rel=1e-5)


def test_under_autocast_cosines_and_threshold_stay_in_float32():
    """What an encoder under autocast predicts is bfloat16; cosines of such products would be off by 1e-2."""
    predicted, target = torch.randn(16, 8, 512).bfloat16(), torch.randn(16, 8, 512)
    align = AttributeAlign(threshold="otsu")
    cos = align.cosines(predicted.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        found, loss = align.cosines(predicted, target), align(predicted, target)
    assert found.dtype == loss.dtype == torch.float32
    assert torch.equal(found, cos) and torch.equal(loss, align.reduce(cos, otsu_threshold(cos)))


def test_gamma_minus_one_equals_no_mask():
    predicted, target = torch.randn(6, 3, 4), torch.randn(6, 3, 4)
    whole = AttributeAlign()(predicted, target)
    for none in (-1, -1.0, "-1", "none"):
        assert torch.equal(AttributeAlign(threshold=none)(predicted, target), whole)


def test_masked_pairs_get_no_gradient_and_the_others_that_of_a_fixed_mask():
    predicted = torch.randn(6, 4, 5, dtype=torch.float32, requires_grad=True)
    target = torch.randn(6, 4, 5)
    align = AttributeAlign(threshold="otsu")
    cos = align.cosines(predicted, target).detach()
    kept = cos > otsu_threshold(cos)
    assert 0 < kept.sum() < kept.numel()
    (gradient,) = torch.autograd.grad(align(predicted, target), predicted)
    assert (gradient[~kept] == 0).all() and (gradient[kept].abs().sum(-1) > 0).all()
    fixed = -(torch.nn.functional.cosine_similarity(predicted, target, dim=-1) * kept).sum() / 4
    (expected,) = torch.autograd.grad(fixed, predicted)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


def test_with_everything_masked_loss_and_gradient_are_exactly_zero():
    predicted, target = torch.randn(3, 2, 4, requires_grad=True), torch.randn(3, 2, 4)
    loss = AttributeAlign(threshold=1.0)(predicted, target)
    loss.backward()
    assert loss.item() == 0 and (predicted.grad == 0).all()


def test_a_zero_vector_has_cosine_zero_and_a_finite_gradient():
    predicted = torch.zeros(1, 2, 4, requires_grad=True)
    loss = AttributeAlign()(predicted, torch.randn(1, 2, 4))
    loss.backward()
    assert loss.item() == 0 and predicted.grad.isfinite().all()


def test_slots_are_compared_with_their_own_slot_only():
    predicted = torch.eye(3)[None]
    assert AttributeAlign()(predicted, predicted).item() == pytest.approx(-1)
    assert AttributeAlign()(predicted, predicted[:, [1, 2, 0]]).item() == 0


# ---------------------------------------------------------------------- thresholds


def exhaustive_otsu(values):
    """All splits, with the variance between classes written out as two deviations from the common mean."""
    s = sorted(values)
    n, best, gamma = len(s), 0.0, -1.0
    common = sum(s) / n
    for k in range(1, n):
        low, high = sum(s[:k]) / k, sum(s[k:]) / (n - k)
        between = k / n * (low - common) ** 2 + (n - k) / n * (high - common) ** 2
        if between > best * (1 + 1e-9) + 1e-15:
            best, gamma = between, s[k - 1]
    return gamma


@pytest.mark.parametrize(
    ("values", "gamma"),
    [
        ([0.10, 0.12, 0.15, 0.60, 0.62, 0.70], 0.15),
        ([0.1, 0.1, 0.9], 0.1),
        ([-0.3, 0, 0.2, 0.25, 0.3, 0.35], 0),
        ([0.5] * 4, -1),
        ([0.1] * 7, -1),
        ([0.25, 0.5, 0.75], 0.25),
        ([0.4], -1),
    ],
)
def test_otsu_on_the_worked_values(values, gamma):
    mixed = torch.tensor(values)[torch.randperm(len(values))]
    assert otsu_threshold(mixed).item() == pytest.approx(gamma)


@pytest.mark.parametrize("count", [2, 3, 17, 320])
def test_otsu_against_every_split(count):
    for _ in range(20):
        values = torch.randn(count).tanh()
        if count > 3:
            values = torch.cat([values, values[:5]])  # duplicates
        assert otsu_threshold(values).item() == pytest.approx(exhaustive_otsu(values.double().tolist()))


def test_percentiles_interpolate_and_fixed_numbers_are_taken_as_they_are():
    values = torch.tensor([0.10, 0.12, 0.15, 0.60, 0.62, 0.70])
    assert noise_threshold("p75")(values).item() == pytest.approx(0.615)
    assert noise_threshold("p50")(values).item() == pytest.approx(0.375)
    assert noise_threshold("p90")(torch.linspace(0, 1, 11)).item() == pytest.approx(0.9)
    assert noise_threshold("0.3")(values).item() == noise_threshold(0.3)(values).item() == pytest.approx(0.3)
    assert noise_threshold("none")(values).item() == noise_threshold(None)(values).item() == -1


@pytest.mark.parametrize("name", ["otsi", "p100", "90", "", "nan", "1.5", "pp"])
def test_an_unknown_threshold_is_an_error(name):
    message = f"method.x is {name!r}; there are: otsu, a percentile such as p50, p75 or p90, a number from -1 to 1, and"
    with pytest.raises(ConfigError) as caught:
        noise_threshold(name, "method.x")
    assert message in str(caught.value)


def test_bad_arguments_are_errors():
    with pytest.raises(ConfigError, match="reduction is 'max'; there are: sum, mean"):
        AttributeAlign("max")
    with pytest.raises(ValueError, match=r"AttributeAlign wants two \[n, r, D\]; got \[2, 3, 4\] and \[2, 4, 4\]"):
        AttributeAlign()(torch.zeros(2, 3, 4), torch.zeros(2, 4, 4))


def test_it_is_registered():
    assert get(LOSSES, "attribute_align") is AttributeAlign
