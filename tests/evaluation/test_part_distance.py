"""The part distance against the double loop over pairs, and what visibility zero must do."""

import math

import pytest
import torch
import torch.nn.functional as F

from occplug.evaluation import part_distance, parts
from occplug.evaluation.parts import METRICS


def side(n, parts=4, d=6, whole=9):
    vis = torch.rand(n, parts)
    return F.normalize(torch.randn(n, whole)), F.normalize(torch.randn(n, parts, d), dim=2), vis


@pytest.mark.parametrize("metric", METRICS)
def test_autocast_does_not_coarsen_it(metric):
    query, gallery = side(5), side(7)
    expected = part_distance(*query, *gallery, metric=metric)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = part_distance(*query, *gallery, metric=metric)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def double_loop(query, gallery, metric, floor):
    rows = []
    for qw, qp, qv in zip(*query):
        rows.append([])
        for gw, gp, gv in zip(*gallery):
            cosines = [float(qw.double() @ gw.double()), *(float(a.double() @ b.double()) for a, b in zip(qp, gp))]
            seen = [1.0]
            for a, b in zip(qv.tolist(), gv.tolist()):
                seen.append(0.0 if a < floor or b < floor else a * b)
            each = [math.sqrt(max(2 - 2 * c, 0)) if metric == "euclidean" else 1 - c for c in cosines]
            rows[-1].append(sum(w * d for w, d in zip(seen, each)) / sum(seen))
    return torch.tensor(rows)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("floor", [0.1, 0.0, 0.5])
def test_against_the_double_loop(metric, floor, monkeypatch):
    query, gallery = side(5), side(7)
    expected = double_loop(query, gallery, metric, floor)
    found = part_distance(*query, *gallery, metric=metric, vis_floor=floor)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(parts, "_QUERIES", 2)
    monkeypatch.setattr(parts, "_GALLERY", 3)
    torch.testing.assert_close(part_distance(*query, *gallery, metric=metric, vis_floor=floor), expected)


def test_euclidean_and_the_floor_are_the_defaults():
    query, gallery = side(3), side(4)
    expected = part_distance(*query, *gallery, metric="euclidean", vis_floor=0.1)
    assert torch.equal(part_distance(*query, *gallery), expected)
    edge = (query[0], query[1], torch.full((3, 4), 0.1))
    assert not torch.equal(part_distance(*edge, *gallery), part_distance(*edge, *gallery, vis_floor=0.11))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("hidden", [0.0, 0.05])
def test_a_part_that_one_side_hides_has_no_influence_at_all(metric, hidden):
    """Bit for bit: the vector of a part below the floor may be anything."""
    (qw, qp, qv), gallery = side(5), side(7)
    qv[:, 2] = hidden
    other = qp.clone()
    other[:, 2] = F.normalize(torch.randn(5, 6), dim=1)
    assert torch.equal(
        part_distance(qw, qp, qv, *gallery, metric=metric), part_distance(qw, other, qv, *gallery, metric=metric)
    )
    gw, gp, gv = gallery
    gv[:, 0] = hidden
    changed = gp.clone()
    changed[:, 0] = F.normalize(torch.randn(7, 6), dim=1)
    assert torch.equal(
        part_distance(qw, qp, qv, gw, gp, gv, metric=metric), part_distance(qw, qp, qv, gw, changed, gv, metric=metric)
    )


@pytest.mark.parametrize("metric", METRICS)
def test_with_nothing_visible_the_global_distance_remains(metric):
    (qw, qp, _), (gw, gp, gv) = side(3), side(4)
    found = part_distance(qw, qp, torch.zeros(3, 4), gw, gp, gv, metric=metric)
    cosines = qw @ gw.T
    torch.testing.assert_close(found, (2 - 2 * cosines).sqrt() if metric == "euclidean" else 1 - cosines)


def test_the_arguments_are_not_changed():
    query, gallery = side(3), side(4)
    before = [tensor.clone() for tensor in (*query, *gallery)]
    for metric in METRICS:
        part_distance(*query, *gallery, metric=metric, vis_floor=0.6)
    assert all(torch.equal(a, b) for a, b in zip(before, (*query, *gallery)))


@pytest.mark.parametrize("metric", METRICS)
def test_equal_images_are_at_distance_zero_and_never_below(metric):
    query = side(200)
    found = part_distance(*query, *query, metric=metric)
    assert found.diagonal().abs().max() < 2e-3 and not found.isnan().any()


def test_half_precision_is_computed_in_full():
    query, gallery = side(3), side(4)
    found = part_distance(*(t.half() for t in query), *(t.half() for t in gallery))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, part_distance(*query, *gallery), atol=5e-3, rtol=0)


def test_wrong_arguments_are_named():
    query, gallery = side(3), side(4)
    with pytest.raises(ValueError, match="metric is 'manhattan'; there are: euclidean, cosine"):
        part_distance(*query, *gallery, metric="manhattan")
    with pytest.raises(ValueError, match=r"got .*\(3, 4, 6\), \(3, 4\).*\(4, 3, 6\), \(4, 3\)"):
        part_distance(*query, *side(4, parts=3))
    with pytest.raises(ValueError, match=r"got .*\(2, 4\), \(4, 9\)"):
        part_distance(query[0], query[1], query[2][:2], *gallery)
