"""Re-ranking against torchreid's code."""

import logging
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from occplug import torchreid_host as host
from occplug.embedding import Embedding
from occplug.errors import ConfigError, DataError
from occplug.evaluation import (
    evaluate_rank,
    masked_distance,
    re_ranking,
    rerank_embeddings,
    reranking,
    reranking_inputs,
    squared_euclidean,
)


def clustered(queries, gallery, ids, width=16, noise=0.6, seed=0):
    """Plain distances of unit vectors that lie around `ids` centres: (q_g, q_q, g_g), and whose they are.

    In the order of the true distances but evenly spaced, so that rounding cannot make two equal: torchreid orders equal
    ones as the CPU likes.
    """
    generator = torch.Generator().manual_seed(seed)
    pids = torch.randint(ids, (queries + gallery,), generator=generator)
    centres = torch.randn(ids, width, generator=generator)
    vectors = centres[pids] + noise * torch.randn(len(pids), width, generator=generator)
    whole = torch.cdist(*2 * [torch.nn.functional.normalize(vectors).double()]).numpy()
    pairs = np.triu_indices(len(whole), 1)
    spaced = np.empty(len(pairs[0]))
    spaced[whole[pairs].argsort()] = np.linspace(0.2, 1.8, len(spaced))
    whole[pairs] = spaced
    whole = np.triu(whole, 1)
    whole = (whole + whole.T).astype(np.float32)
    return (whole[:queries, queries:], whole[:queries, :queries], whole[queries:, queries:]), pids.numpy()


def torchreids(*inputs, **options):
    return host.sub("utils.rerank").re_ranking(*inputs, **options)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 30),
    gallery=st.integers(1, 170),
    ids=st.integers(1, 25),
    k1=st.integers(1, 30),
    k2=st.integers(1, 12),
    lambda_value=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_values_are_torchreids(seed, queries, gallery, ids, k1, k2, lambda_value):
    inputs, _ = clustered(queries, gallery, ids, seed=seed)
    options = {"k1": k1, "k2": k2, "lambda_value": lambda_value}
    ours = re_ranking(*inputs, **options)
    assert ours.dtype == np.float32 and ours.shape == (queries, gallery)
    np.testing.assert_allclose(ours, torchreids(*inputs, **options), atol=1e-5, rtol=0)


@pytest.mark.parametrize("block", [1, 32, 1000])
def test_blocks_do_not_matter(block, monkeypatch):
    inputs, _ = clustered(37, 200, 20)
    expected = re_ranking(*inputs)
    monkeypatch.setattr(reranking, "BLOCK", block)
    np.testing.assert_allclose(re_ranking(*inputs), expected, atol=1e-6, rtol=0)


def test_distances_that_are_not_symmetric():
    rng = np.random.default_rng(0)
    whole = rng.random((250, 250), dtype=np.float32)
    np.fill_diagonal(whole, 0)
    inputs = whole[:50, 50:], whole[:50, :50], whole[50:, 50:]
    np.testing.assert_allclose(re_ranking(*inputs), torchreids(*inputs), atol=1e-5, rtol=0)


def test_doubles_and_tensors():
    inputs, _ = clustered(20, 100, 10)
    expected = re_ranking(*inputs)
    np.testing.assert_allclose(re_ranking(*(a.astype(np.float64) for a in inputs)), expected, atol=1e-6)
    np.testing.assert_allclose(re_ranking(*(torch.from_numpy(a.copy()) for a in inputs)), expected, atol=1e-6)


def test_it_ranks_better_than_the_distances_it_is_given():
    inputs, pids = clustered(60, 600, 60, noise=1.0)
    rng = np.random.default_rng(0)
    ids = pids[:60], pids[60:], rng.integers(0, 3, 60), rng.integers(0, 3, 600)
    assert evaluate_rank(re_ranking(*inputs), *ids)[1] > evaluate_rank(inputs[0], *ids)[1] + 0.05


def test_it_squares_what_it_is_given_and_the_helper_allows_for_that():
    inputs, _ = clustered(20, 100, 10)
    squares = tuple(a * a for a in inputs)
    assert np.abs(re_ranking(*squares) - re_ranking(*inputs)).max() > 0.01
    np.testing.assert_allclose(re_ranking(*reranking_inputs(*squares)), re_ranking(*inputs), atol=1e-4)


def test_the_helper_takes_rounding_below_zero():
    roots = reranking_inputs(np.float32([[-1e-7, 4]]), np.float32([[0]]), np.float32([[0, 1], [1, 0]]))
    assert roots[0].tolist() == [[0, 2]] and roots[0].dtype == np.float32


def test_equal_distances_are_ordered_by_index():
    near = reranking._smallest(np.float32([[1, 0, 1, 1, 0], [2, 2, 2, 2, 2]]), 3)
    assert near.tolist() == [[1, 4, 0], [0, 1, 2]]


def test_a_collapsed_model_gives_one_distance_everywhere():
    ones = [np.zeros(shape, np.float32) for shape in ((3, 40), (3, 3), (40, 40))]
    assert np.isfinite(re_ranking(*ones)).all()


def test_inputs_are_not_changed():
    inputs, _ = clustered(10, 50, 5)
    before = [a.copy() for a in inputs]
    re_ranking(*inputs)
    reranking_inputs(*inputs)
    assert all(np.array_equal(a, b) for a, b in zip(inputs, before))


def test_wrong_input_is_named():
    (q_g, q_q, g_g), _ = clustered(4, 20, 3)
    with pytest.raises(ValueError, match=r"and \[G, G\], got \(4, 20\), \(20, 20\) and \(4, 4\)"):
        re_ranking(q_g, g_g, q_q)
    with pytest.raises(ConfigError, match=r"k1 and k2 of at least 1 and lambda in \[0, 1\], got 0, 6 and 0.3"):
        re_ranking(q_g, q_q, g_g, k1=0)
    with pytest.raises(DataError, match="nothing to re-rank: 0 queries, 20 gallery images"):
        re_ranking(q_g[:0], q_q[:0, :0], g_g)
    broken = g_g.copy()
    broken[:, 5] = np.nan
    with pytest.raises(DataError, match=r"distances of image 9 \(queries first\) hold nan"):
        re_ranking(q_g, q_q, broken)


def test_from_embeddings_of_a_method():
    query, gallery = (torch.nn.functional.normalize(torch.randn(n, 8)) for n in (6, 30))
    squares = [squared_euclidean(a, b).numpy() for a, b in ((query, gallery), (query, query), (gallery, gallery))]
    assert re_ranking(*reranking_inputs(*squares)).shape == (6, 30)


# ---- from embeddings, block by block


def crowd(queries, gallery, width=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(max(gallery // 8, 2), width, generator=generator)
    vectors = centres[torch.randint(len(centres), (queries + gallery,), generator=generator)]
    vectors = torch.nn.functional.normalize(vectors + 0.6 * torch.randn(vectors.shape, generator=generator))
    masks = torch.rand(vectors.shape, generator=generator)
    whole = Embedding(vectors, mask=masks)
    return whole[:queries], whole[queries:]


MATCHERS = {  # name -> (distance, is it squared, the plain distance torchreid's function squares)
    "plain": (lambda q, g: torch.cdist(q.vector, g.vector), False, lambda d: d),
    "squared": (lambda q, g: squared_euclidean(q.vector, g.vector), True, np.sqrt),
    "of one side's masks": (lambda q, g: masked_distance(q.vector, q.mask, g.vector), False, lambda d: d),
}


@pytest.mark.parametrize("name", MATCHERS)
@pytest.mark.parametrize("block", [1, 48, 512])
def test_embeddings_give_torchreids_values_of_whole_matrices(name, block, monkeypatch):
    matcher, squared, plain = MATCHERS[name]
    query, gallery = crowd(30, 150)
    monkeypatch.setattr(reranking, "COMPUTED", block)
    ours = np.concatenate(list(rerank_embeddings(matcher, query, gallery, squared)))
    whole = [plain(matcher(a, b).numpy()) for a, b in ((query, gallery), (query, query), (gallery, gallery))]
    assert ours.dtype == np.float32
    differs = np.abs(ours - torchreids(*whole)) > 1e-4
    assert differs.mean() < 0.005  # rounding may make two distances change places


def test_no_matrix_of_gallery_by_gallery_is_made_and_memory_is_told_first(caplog, monkeypatch):
    matcher = MATCHERS["plain"][0]
    query, gallery = crowd(20, 4000)
    monkeypatch.setattr(reranking, "COMPUTED", 64)
    caplog.set_level(logging.INFO, "occplug")
    rows = rerank_embeddings(matcher, query, gallery, False)
    tracemalloc.start()
    for _ in rows:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * 4 * 4000**2
    (told,) = caplog.messages
    assert told.startswith("re-ranking 20 queries and 4000 gallery images in blocks of 64: about ")
    assert told.endswith("MiB beside the embeddings (whole matrices would be 62 MiB each)")
    number = int(told.split("about ")[1].split()[0]) * 2**20
    assert 0.2 * peak < number < 5 * peak


def test_embeddings_that_are_not_finite_or_not_there_are_named():
    query, gallery = crowd(3, 40)
    gallery.vector[7] = torch.nan
    with pytest.raises(DataError, match=r"\(queries first\) hold nan; the embeddings are not finite"):
        list(rerank_embeddings(MATCHERS["plain"][0], query, gallery, False))
    with pytest.raises(DataError, match="nothing to re-rank: 0 queries, 40 gallery images"):
        rerank_embeddings(MATCHERS["plain"][0], query[:0], gallery, False)
