"""Learning rates against the values of CLIP-ReID's official schedules."""

import math

import pytest

from occplug.stages import warmup_cosine, warmup_multistep


def test_stage1_of_the_vit():
    factor = warmup_cosine(lr=3.5e-4, epochs=120, warmup_epochs=5, warmup_lr=1e-5, min_lr=1e-6)
    rates = [3.5e-4 * factor(e) for e in range(1, 6)]
    assert rates == pytest.approx([7.8e-5, 1.46e-4, 2.14e-4, 2.82e-4, 3.485e-4], rel=2e-4)
    assert 3.5e-4 * factor(120) == pytest.approx(1e-6)
    assert 3.5e-4 * factor(60) == pytest.approx(1e-6 + 3.49e-4 / 2, rel=1e-6)


def test_stage1_of_rn50_starts_its_cosine_unshifted():
    factor = warmup_cosine(lr=3.5e-4, epochs=60, warmup_epochs=5, warmup_lr=1e-5, min_lr=1e-6)
    assert 3.5e-4 * factor(5) == pytest.approx(1e-6 + 3.49e-4 / 2 * (1 + math.cos(math.pi * 5 / 60)))


@pytest.mark.parametrize(
    ("lr", "steps", "start", "expected"),
    [
        (5e-6, (30, 50), 0.1, {1: 9.5e-7, 9: 4.55e-6, 10: 5e-6, 29: 5e-6, 30: 5e-7, 49: 5e-7, 50: 5e-8, 60: 5e-8}),
        (3.5e-4, (40, 70), 0.01, {1: 3.815e-5, 10: 3.5e-4, 39: 3.5e-4, 40: 3.5e-5, 70: 3.5e-6}),
    ],
)
def test_stage2(lr, steps, start, expected):
    factor = warmup_multistep(steps, gamma=0.1, warmup_epochs=10, warmup_factor=start)
    assert {e: lr * factor(e) for e in expected} == pytest.approx(expected, rel=1e-6)
