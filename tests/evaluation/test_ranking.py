"""Ranking against torchreid's Python code, a ten-line reference, and values worked out by hand."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from occplug import torchreid_host as host
from occplug.embedding import Embedding
from occplug.errors import DataError
from occplug.evaluation import (
    Ranker,
    by_group,
    cosine_distance,
    evaluate_embeddings,
    evaluate_rank,
    rank_distances,
    ranking,
    squared_euclidean,
)


def reference(distances, q_pids, g_pids, q_camids, g_camids, max_rank=50):
    """The market1501 metric in plain Python; among equal distances other people come first."""
    max_rank = min(max_rank, len(g_pids))
    curves, precisions = [], []
    for row, pid, camid in zip(distances, q_pids, q_camids):
        kept = [j for j in range(len(row)) if not (g_pids[j] == pid and g_camids[j] == camid)]
        kept.sort(key=lambda j: (row[j], g_pids[j] == pid))
        hits = [position for position, j in enumerate(kept, start=1) if g_pids[j] == pid]
        if hits:
            curves.append([hits[0] <= k for k in range(1, max_rank + 1)])
            precisions.append(np.mean([(n + 1) / position for n, position in enumerate(hits)]))
    return np.mean(curves, axis=0), np.mean(precisions)


def random_case(seed, num_query, num_gallery, num_ids, num_cameras):
    """Distances without ties within a row; some query ids are missing from the gallery, some have one camera."""
    rng = np.random.default_rng(seed)
    distances = rng.permuted(np.tile(np.arange(num_gallery, dtype=np.float32), (num_query, 1)), axis=1)
    ids = [rng.integers(0, num_ids, n) for n in (num_query, num_gallery)]
    cameras = [rng.integers(0, num_cameras, n) for n in (num_query, num_gallery)]
    return distances, *ids, *cameras


def has_match(case):
    _, q_pids, g_pids, q_camids, g_camids = case
    return ((q_pids[:, None] == g_pids) & (q_camids[:, None] != g_camids)).any()


def torchreid_rank(*case, max_rank=50):
    return host.sub("metrics.rank").evaluate_rank(*case, max_rank=max_rank, use_cython=False)


CASES = {
    "seed": st.integers(0, 2**32 - 1),
    "num_query": st.integers(1, 12),
    "num_ids": st.integers(1, 20),
    "num_cameras": st.integers(1, 5),
    "few": st.sampled_from([0, 3, 1000]),
}


@settings(max_examples=150, deadline=None)
@given(num_gallery=st.integers(70, 160), **CASES)
def test_values_are_torchreids(seed, num_query, num_gallery, num_ids, num_cameras, few):
    case = random_case(seed, num_query, num_gallery, num_ids, num_cameras)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "FEW_MATCHES", few)  # both ways of counting
        if not has_match(case):
            with pytest.raises(AssertionError):
                torchreid_rank(*case)
            with pytest.raises(DataError):
                evaluate_rank(*case)
            return
        cmc, mean_ap = evaluate_rank(*case)
    try:
        expected, expected_ap = torchreid_rank(*case)
    except ValueError:  # curves of unequal length: so many left out that fewer than 50 are kept for some query
        expected, expected_ap = reference(*case)
    assert cmc.dtype == np.float32 and np.array_equal(cmc[: len(expected)], expected.astype(np.float32))
    assert mean_ap == pytest.approx(expected_ap, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(num_gallery=st.integers(1, 49), **CASES)
def test_galleries_of_fewer_than_50(seed, num_query, num_gallery, num_ids, num_cameras, few):
    case = random_case(seed, num_query, num_gallery, num_ids, num_cameras)
    if not has_match(case):
        return
    cmc, mean_ap = evaluate_rank(*case)
    expected, expected_ap = reference(*case)
    assert len(cmc) == num_gallery
    assert cmc == pytest.approx(expected, abs=1e-6) and mean_ap == pytest.approx(expected_ap, abs=1e-12)
    try:
        theirs, their_ap = torchreid_rank(*case)
    except ValueError:
        return
    assert np.array_equal(cmc[: len(theirs)], theirs) and mean_ap == pytest.approx(their_ap, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(seed=CASES["seed"], levels=st.integers(1, 6), few=CASES["few"])
def test_ties_follow_the_rule_in_any_order_of_the_gallery(seed, levels, few):
    rng = np.random.default_rng(seed)
    _, q_pids, g_pids, q_camids, g_camids = case = random_case(seed, 6, 40, 5, 3)
    distances = rng.choice([0.0, 0.5, 1.0, 2.0, 3.0, np.inf][-levels:], (6, 40))
    if not has_match(case):
        return
    order = rng.permutation(40)
    shuffled = (distances[:, order], q_pids, g_pids[order], q_camids, g_camids[order])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "FEW_MATCHES", few)
        one, other = evaluate_rank(distances, *case[1:]), evaluate_rank(*shuffled)
    expected = reference(distances, *case[1:])
    assert one[0] == pytest.approx(expected[0], abs=1e-6) and one[1] == pytest.approx(expected[1], abs=1e-12)
    assert np.array_equal(one[0], other[0]) and one[1] == other[1]


def test_a_collapsed_model_gets_nothing():
    _, *ids = random_case(0, 50, 500, 50, 4)
    cmc, mean_ap = evaluate_rank(np.ones((50, 500), np.float32), *ids)
    assert cmc[0] == 0 and cmc[-1] == 0 and mean_ap < 0.03


def test_a_query_worked_out_by_hand():
    # kept, nearest first: other, match, other, match; the nearest of all is the query's own camera and left out
    distances = [[0.1, 0.2, 0.3, 0.4, 0.5]]
    result = rank_distances(distances, [7], [7, 1, 7, 2, 7], [0], [0, 0, 1, 0, 2], max_rank=5)
    assert result.cmc.tolist() == [0, 1, 1, 1, 1]
    assert result.mAP == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.first_hit.tolist() == [2] and result.num_gallery == 5


def test_queries_without_a_match_are_left_out_of_the_averages():
    distances = [[0.1, 0.2], [0.2, 0.1], [0.1, 0.2]]
    result = rank_distances(distances, [1, 2, 3], [1, 2], [0, 0, 0], [1, 0], max_rank=2)
    assert (result.num_query, result.num_valid) == (3, 1)  # 2 is only seen by its own camera, 3 not at all
    assert result.mAP == 1 and np.isnan(result.ap[1:]).all() and result.first_hit.tolist() == [1, 0, 0]


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.int64])
def test_other_types_of_distances(kind):
    case = random_case(3, 5, 60, 6, 3)
    expected = evaluate_rank(*case)
    cmc, mean_ap = evaluate_rank(case[0].astype(kind), *case[1:])
    assert np.array_equal(cmc, expected[0]) and mean_ap == expected[1]
    assert evaluate_rank(torch.from_numpy(case[0]), *case[1:])[1] == expected[1]
    ids = [np.asarray(values, float) for values in case[1:]]
    assert evaluate_rank(torch.from_numpy(case[0]).requires_grad_(), *ids)[1] == expected[1]
    coarse = torch.from_numpy(case[0]).bfloat16()
    assert evaluate_rank(coarse, *case[1:])[1] == evaluate_rank(coarse.float(), *case[1:])[1]


def test_the_input_is_not_changed():
    case = random_case(4, 5, 60, 6, 3)
    kept = case[0].copy()
    evaluate_rank(*case)
    assert np.array_equal(case[0], kept)


def test_a_short_gallery_is_noted(caplog):
    evaluate_rank([[0.1, 0.2]], [1], [1, 2], [0], [1, 1])
    assert caplog.messages == ["the gallery has 2 images; CMC ends at rank 2"]


def message_of(error, distances, *ids, **options):
    with pytest.raises(error) as caught:
        evaluate_rank(np.asarray(distances, np.float32), *ids, **options)
    return str(caught.value)


def test_wrong_input_is_named():
    one = [[0.5]]
    assert message_of(DataError, np.empty((0, 1)), [], [1], [], [1]) == (
        "there is no query image to rank; check the data set's query folder"
    )
    assert message_of(DataError, np.empty((1, 0)), [1], [], [1], []) == (
        "there is no gallery image to rank; check the data set's gallery folder"
    )
    assert message_of(DataError, [[0.1, np.nan]], [1], [1, 2], [0], [1, 1]) == (
        "the distances of query 0 hold nan: the model's embeddings are not finite (a diverged or damaged checkpoint?)"
    )
    assert message_of(DataError, one, [1], [1], [0], [0]) == (
        "none of the 1 queries has a match in the gallery (same pid, other camid); "
        "check that query and gallery belong together and that camera numbers are read from the file names"
    )
    assert message_of(ValueError, one, [1, 2], [1], [0, 0], [1]) == (
        "distmat is [Q, G] = [2, 1] after the pids, got [1, 1]"
    )
    assert message_of(ValueError, one, [1], [1], [0, 0], [1]) == (
        "pids and camids differ in number: 1 and 2 (query), 1 and 1 (gallery)"
    )
    assert message_of(ValueError, one, [1], [1.5], [0], [1]) == (
        "g_pids is one row of integers, got float64 of shape [1]"
    )


def test_a_ranker_wants_every_query_once():
    ranker = Ranker([1, 1], [1], [0, 0], [1])
    with pytest.raises(ValueError, match="distances of 0 of 2 queries were added"):
        ranker.result()
    with pytest.raises(ValueError, match=r"distances are \[at most 2, 1\], got \[3, 1\]"):
        ranker.add(np.zeros((3, 1)))


# ---------------------------------------------------------------- from embeddings, in blocks


@pytest.mark.parametrize("block", [1, 7, 20, 256])
def test_blocks_give_what_the_whole_matrix_gives(block):
    _, *ids = random_case(5, 20, 90, 10, 3)
    query, gallery = Embedding(torch.randn(20, 8)), Embedding(torch.randn(90, 8))
    rows = []

    def distance(some, all_of_gallery):
        rows.append(len(some))
        return squared_euclidean(some.vector, all_of_gallery.vector)

    result = evaluate_embeddings(distance, query, gallery, *ids, block=block)
    whole = rank_distances(squared_euclidean(query.vector, gallery.vector), *ids)
    assert sum(rows) == 20 and max(rows) <= block
    assert result.mAP == whole.mAP and np.array_equal(result.cmc, whole.cmc)
    assert np.array_equal(result.ap, whole.ap, equal_nan=True) and np.array_equal(result.first_hit, whole.first_hit)


def test_embeddings_and_pids_must_be_as_many():
    query, gallery = Embedding(torch.randn(2, 4)), Embedding(torch.randn(3, 4))
    with pytest.raises(ValueError, match="2 and 3 embeddings for 2 and 4 pids"):
        evaluate_embeddings(None, query, gallery, [1, 2], [1, 2, 3, 4], [0, 0], [1, 1, 1, 1])


MEMORY = r"""
import re, sys, numpy as np, torch
from occplug.embedding import Embedding
from occplug.evaluation import cosine_distance, evaluate_embeddings
torch.set_num_threads(1)
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read()).group(1))
queries, images, width = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
start = peak()
query, gallery = Embedding(torch.randn(queries, width)), Embedding(torch.randn(images, width))
ids = [rng.integers(0, images // 20, n) for n in (queries, images)]
cameras = [rng.integers(0, 15, n) for n in (queries, images)]
result = evaluate_embeddings(lambda q, g: cosine_distance(q.vector, g.vector), query, gallery, *ids, *cameras)
print(peak() - start, result.num_query)
"""


def growth_in_mib(*sizes):
    command = [sys.executable, "-c", MEMORY, *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[0]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_the_whole_matrix_is_never_held():
    # 4,000 x 20,000 distances would be 305 MiB; a block of 256 is 20 MiB, embeddings and ids 2 MiB
    assert growth_in_mib(4000, 20000, 16) < 150


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_msmt17_in_two_gigabytes():
    assert growth_in_mib(11659, 82161, 1280) < 1900


# ---------------------------------------------------------------- results


def test_summary_and_line():
    result = rank_distances([[0.1, 0.2], [0.2, 0.1]], [1, 1], [1, 2], [0, 0], [1, 1])
    assert result.summary() == {
        "mAP": 0.75, "rank1": 0.5, "rank5": 1.0, "rank10": 1.0, "rank20": 1.0, "num_query": 2,
        "num_query_valid": 2, "num_gallery": 2,
    }  # fmt: skip
    assert str(result) == (
        "mAP 75.0 %, Rank-1 50.0 %, Rank-5 100.0 %, Rank-10 100.0 %, Rank-20 100.0 % (2 queries, 2 gallery images)"
    )


def test_groups_of_queries():
    distances = [[0.1, 0.2], [0.2, 0.1], [0.1, 0.2], [0.1, 0.2]]
    result = rank_distances(distances, [1, 1, 1, 9], [1, 2], [0, 0, 0, 0], [1, 1])
    rows = by_group(result, ["car", "car", "box", "tree"])
    assert [(row["group"], row["queries"], row["mAP"], row["rank1"]) for row in rows[:2]] == [
        ("box", 1, 1.0, 1.0),
        ("car", 2, 0.75, 0.5),
    ]
    assert rows[2]["group"] == "tree" and rows[2]["queries"] == 0 and np.isnan(rows[2]["mAP"])
    with pytest.raises(ValueError, match=r"4 queries need as many labels, got shape \[1\]"):
        by_group(result, ["car"])


def test_cosine_distances_rank_like_squared_euclidean_of_unit_vectors():
    _, *ids = random_case(6, 10, 80, 8, 3)
    query, gallery = torch.randn(10, 16), torch.randn(80, 16)
    unit = torch.nn.functional.normalize
    one = evaluate_rank(cosine_distance(query, gallery), *ids)
    other = evaluate_rank(squared_euclidean(unit(query), unit(gallery)), *ids)
    assert np.array_equal(one[0], other[0]) and one[1] == pytest.approx(other[1])
