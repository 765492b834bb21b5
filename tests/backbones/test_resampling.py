"""Resampling by matrices against torch's own operators, for every combination of growing and shrinking axes."""

import pytest
import torch
import torch.nn.functional as F

from occplug.backbones.resampling import enlarge_bicubic, to_grid


@pytest.mark.parametrize("old, new", [((4, 2), (21, 10)), ((16, 8), (21, 10)), ((8, 4), (16, 8)), ((3, 5), (3, 9))])
def test_growing_is_bilinear(old, new):
    x = torch.randn(2, 3, *old, dtype=torch.float64)
    expected = F.interpolate(x, size=new, mode="bilinear", align_corners=False)
    torch.testing.assert_close(to_grid(x, new), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("old, new", [((32, 16), (16, 8)), ((32, 16), (21, 10)), ((5, 7), (5, 3))])
def test_shrinking_is_adaptive_average_pooling(old, new):
    x = torch.randn(2, 3, *old, dtype=torch.float64)
    torch.testing.assert_close(to_grid(x, new), F.adaptive_avg_pool2d(x, new), atol=1e-12, rtol=0)


def test_axes_are_independent_and_the_same_grid_is_the_same_map():
    x = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    expected = F.adaptive_avg_pool2d(F.interpolate(x, size=(6, 8), mode="bilinear", align_corners=False), (6, 5))
    torch.testing.assert_close(to_grid(x, (6, 5)), expected, atol=1e-12, rtol=0)
    assert to_grid(x, (4, 8)) is x


@pytest.mark.parametrize("new", [(6, 4), (4, 7), (9, 5), (4, 4)])
def test_bicubic(new):
    x = torch.randn(4, 4, 4, dtype=torch.float64)
    expected = F.interpolate(x[None], size=new, mode="bicubic", align_corners=False)[0]
    torch.testing.assert_close(enlarge_bicubic(x, new), expected, atol=1e-12, rtol=0)


def test_gradients_are_those_of_the_operators():
    x = torch.randn(1, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: to_grid(t, (7, 3)), x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gradients_on_a_gpu_are_deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        x = torch.randn(1, 2, 4, 6, device="cuda", requires_grad=True)
        (to_grid(x, (7, 3)).sum() + enlarge_bicubic(x, (7, 9)).sum()).backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert x.grad is not None
