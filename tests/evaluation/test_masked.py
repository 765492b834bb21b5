"""Masked cosine and distance against loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from occplug.evaluation import cosine_distance, masked_cosine, masked_distance
from occplug.evaluation import masked as module


def unit(v):
    return v / v.norm().clamp(min=1e-12)


FORMS = {
    "feat_pre": lambda f, m, w: unit(m * f) @ unit(w),
    "proto_pre": lambda f, m, w: unit(f) @ unit(m * w),
    "both_pre": lambda f, m, w: unit(m * f) @ unit(m * w),
    "feat_post": lambda f, m, w: (m * unit(f)) @ unit(w),
    "proto_post": lambda f, m, w: unit(f) @ (m * unit(w)),
    "both_post": lambda f, m, w: (m * unit(f)) @ (m * unit(w)),
}


@pytest.mark.parametrize("place", module.MASK_PLACES)
def test_masked_cosine_is_the_written_form(place):
    f, m, w = torch.randn(3, 8), torch.rand(3, 8), 5 * torch.randn(4, 8)
    expected = torch.stack([torch.stack([FORMS[place](f[i], m[i], w[c]) for c in range(4)]) for i in range(3)])
    torch.testing.assert_close(masked_cosine(f, m, w, place), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("place", [p for p in module.MASK_PLACES if p.endswith("pre")])
def test_a_uniform_mask_changes_nothing(place):
    f, w = torch.randn(3, 8), torch.randn(4, 8)
    torch.testing.assert_close(masked_cosine(f, torch.full_like(f, 0.5), w, place), F.normalize(f) @ F.normalize(w).T)


def test_masked_cosine_refuses_what_does_not_fit():
    f = torch.randn(3, 8)
    with pytest.raises(ValueError, match="place is 'post'; there are: feat_pre"):
        masked_cosine(f, f, f, "post")
    with pytest.raises(ValueError, match=r"got \(3, 8\), \(3, 7\), \(3, 8\)"):
        masked_cosine(f, f[:, :7], f)


def test_masked_distance_is_the_angle_under_the_querys_mask(monkeypatch):
    monkeypatch.setattr(module, "_QUERIES", 3)
    monkeypatch.setattr(module, "_GALLERY", 4)
    q, m, g = torch.randn(7, 16), torch.rand(7, 16), 3 * torch.randn(9, 16)
    before = [x.clone() for x in (q, m, g)]
    found = masked_distance(q, m, g)
    assert found.shape == (7, 9) and found.dtype == torch.float32
    for i in range(7):
        for j in range(9):
            assert found[i, j].item() == pytest.approx(math.acos(float(unit(q[i]) @ unit(m[i] * g[j]))), abs=1e-5)
    other = masked_distance(q, m, g, "both_pre")
    assert other[2, 5].item() == pytest.approx(math.acos(float(FORMS["both_pre"](q[2], m[2], g[5]))), abs=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(before, (q, m, g)))


def test_masked_distance_is_clipped_at_the_edges_and_defined_for_zeros():
    q = torch.tensor([[1.0, 0.0]])
    found = masked_distance(q, torch.ones(1, 2), torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 0.0]]))[0]
    expected = [math.acos(1 - 1e-5), math.acos(-1 + 1e-5), math.pi / 2]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    hidden = masked_distance(q, torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    assert hidden.item() == pytest.approx(math.pi / 2)  # nothing of the gallery vector is left


def test_a_mask_of_one_half_ranks_as_the_plain_cosine():
    q, g = torch.randn(5, 16), torch.randn(11, 16)
    angles = masked_distance(q, torch.full_like(q, 0.5), g)
    torch.testing.assert_close(1 - angles.cos(), cosine_distance(q, g), atol=1e-5, rtol=0)
    assert torch.equal(angles.argsort(1), cosine_distance(q, g).argsort(1))
