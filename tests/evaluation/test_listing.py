"""Ranked lists that a test leaves: the rule, greyed images, which part decides, what a mask does, the file."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from occplug.embedding import Embedding
from occplug.errors import DataError
from occplug.evaluation import Lister, Metric, PerQuery, evaluate_embeddings, ranked_lists, read_per_query, read_ranked
from occplug.evaluation.listing import _part_shares

PIDS, CAMS = 5, 3


def labels(count, seed):
    draw = np.random.default_rng(seed)
    return draw.integers(0, PIDS, count), draw.integers(0, CAMS, count)


def listed(query, gallery, distance, top=7, grey=0, block=256):
    (q_pids, q_camids), (g_pids, g_camids) = labels(len(query), 3), labels(len(gallery), 4)
    ids = (q_pids, g_pids, q_camids, g_camids)
    lister = Lister(*ids, top=top, grey=grey)
    evaluate_embeddings(lister.watching(distance), query, gallery, *ids, block=block)
    return lister


def euclidean(a, b):
    return torch.cdist(a.vector, b.vector)


@pytest.mark.parametrize("block", [3, 256])
def test_what_counts_is_listed_nearest_first(block):
    query, gallery = Embedding(torch.randn(20, 4)), Embedding(torch.randn(50, 4))
    lister = listed(query, gallery, euclidean, block=block)
    nearest, values = lister.result()
    whole = euclidean(query, gallery)
    for i in range(20):
        same = {j for j in range(50) if (lister.g[0][j], lister.g[1][j]) == (lister.q[0][i], lister.q[1][i])}
        expected = sorted(set(range(50)) - same, key=lambda j: whole[i, j].item())[:7]
        assert nearest[i].tolist() == expected
        assert values[i] == pytest.approx([whole[i, j].item() for j in expected])


def test_images_that_do_not_count_are_listed_where_they_stand():
    query, gallery = Embedding(torch.randn(20, 4)), Embedding(torch.randn(50, 4))
    lister = listed(query, gallery, euclidean, grey=2)
    nearest, _ = lister.result()
    whole = euclidean(query, gallery)
    for i in range(20):
        order = sorted(range(50), key=lambda j: whole[i, j].item())
        is_same = [(lister.g[0][j], lister.g[1][j]) == (lister.q[0][i], lister.q[1][i]) for j in order]
        counted = [j for j, same in zip(order, is_same) if not same][:7]
        left = [j for j, same in zip(order, is_same) if same and order.index(j) < order.index(counted[-1])][:2]
        expected = sorted(counted + left, key=order.index)
        assert [j for j in nearest[i].tolist() if j >= 0] == expected


def test_a_gallery_that_ends_is_filled_with_minus_one():
    lister = Lister([1], [1, 2], [0], [0, 0], top=5, grey=0)
    lister.add(torch.cdist(torch.zeros(1, 2), torch.eye(2)))
    nearest, values = lister.result()
    assert nearest.tolist() == [[1, -1]] and values[0, 1] == np.inf


def with_parts(count):
    vector, parts = F.normalize(torch.randn(count, 6), dim=1), F.normalize(torch.randn(count, 3, 6), dim=2)
    return Embedding(vector, parts, torch.rand(count, 3))


@pytest.mark.parametrize("kind", ["euclidean", "cosine"])
def test_shares_of_the_parts_add_up_to_the_distance(kind):
    query, gallery = with_parts(4), with_parts(9)
    metric = Metric("parts", {"metric": kind, "vis_floor": 0.3})
    near = torch.stack([torch.randperm(9)[:5] for _ in range(4)])
    shares = _part_shares(query, gallery[near.flatten()], 5, **metric.options)
    torch.testing.assert_close(shares.sum(dim=2), metric(query, gallery).gather(1, near), atol=1e-4, rtol=1e-4)


def test_the_part_that_alone_differs_decides():
    same = F.normalize(torch.ones(1, 4), dim=1)
    query = Embedding(same, same[:, None].expand(1, 2, 4), torch.ones(1, 2))
    vectors = same.expand(3, 4)
    parts = vectors[:, None].repeat(1, 2, 1)
    parts[1:, 1] = F.normalize(torch.tensor([[1.0, -1, 1, -1]]), dim=1)  # only the first image has the same legs
    gallery = Embedding(vectors, parts, torch.ones(3, 2))
    lister = Lister([1], [1, 2, 3], [0], [1, 1, 1])
    metric = Metric("parts")
    lister.add(metric(query, gallery))
    found = ranked_lists(lister, query, gallery, (["q"], ["a", "b", "c"]), metric, ("arms", "legs"))
    assert found.part.tolist() == ["whole", "arms", "legs"]
    assert found.path[found.nearest[0, 0]] == "a" and found.part[found.deciding[0, 0]] == "legs"


def test_a_mask_of_ones_does_nothing_and_another_one_what_its_distance_says():
    query = Embedding(torch.randn(2, 5), mask=torch.stack([torch.ones(5), torch.tensor([1.0, 1, 0, 0, 0])]))
    gallery, metric = Embedding(torch.randn(6, 5), mask=torch.ones(6, 5)), Metric("masked")
    lister = Lister([0, 1], [0, 0, 0, 1, 1, 1], [9, 9], [1, 1, 1, 1, 1, 1])
    masked = metric(query, gallery)
    lister.add(masked)
    found = ranked_lists(lister, query, gallery, (["q", "r"], list("abcdef")), metric)
    plain = metric(Embedding(query.vector, mask=torch.ones(2, 5)), gallery)
    places = [["abcdef".index(found.path[j]) for j in row if j >= 0] for row in found.nearest]
    assert found.mask_effect[0, :6] == pytest.approx(0, abs=1e-3)
    assert found.mask_effect[1, :6] == pytest.approx((masked - plain)[1, places[1]].numpy(), abs=1e-3)


def test_the_file_gives_back_what_was_written_and_damage_is_named(tmp_path):
    query, gallery = Embedding(torch.randn(20, 4)), Embedding(torch.randn(50, 4))
    lister = listed(query, gallery, euclidean)
    names = [f"q{i}.png" for i in range(20)], [f"g<{i}>.png" for i in range(50)]
    found = ranked_lists(lister, query, gallery, names, None, occlusion=np.linspace(0, 1, 20))
    found.write(tmp_path / "x.npz")
    again = read_ranked(tmp_path / "x.npz")
    assert again.path.tolist() == found.path.tolist() and again.nearest.tolist() == found.nearest.tolist()
    assert again.map_vector.shape == (70, 4) and set(again.map_path) == set(names[0]) | set(names[1])
    assert read_ranked(tmp_path / "none.npz") is None
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:200])
    with pytest.raises(DataError, match="x.npz: not a complete file of ranked lists"):
        read_ranked(tmp_path / "x.npz")


# ---------------------------------------------------------------------- damage


def claimed(shape) -> bytes:
    """The head of an array file that claims `shape` and holds nothing."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def rewritten(file, name, content: bytes) -> None:
    with zipfile.ZipFile(file) as archive:
        records = {record: archive.read(record) for record in archive.namelist()} | {f"{name}.npy": content}
    with zipfile.ZipFile(file, "w") as archive:
        for record, data in records.items():
            archive.writestr(record, data)


def saved(tmp_path, **changed):
    generator = torch.Generator().manual_seed(0)
    query, gallery = (Embedding(torch.randn(n, 4, generator=generator)) for n in (3, 8))
    lister = Lister(np.array([1, 2, 3]), np.array([1, 1, 2, 2, 3, 3, 1, 2]), np.zeros(3, int), np.ones(8, int), grey=0)
    lister.add(torch.cdist(query.vector, gallery.vector))
    made = ranked_lists(lister, query, gallery, (["q"] * 3, ["g"] * 8), Metric("squared_euclidean"))
    replace(made, **changed).write(tmp_path / "x.npz")
    return tmp_path / "x.npz"


def figures(tmp_path, **changed):
    numbers = np.zeros(2, int)
    whole = {"image": np.array(["a", "b"]), "pid": numbers, "camid": numbers, "ap": np.zeros(2), "first_hit": numbers}
    PerQuery(**whole | changed).write(tmp_path / "q.npz")
    return tmp_path / "q.npz"


@pytest.mark.parametrize("shape", [(10**12,), (10**6, 10**6), (2**62,), (-5,), (3,)])
def test_arrays_that_claim_more_than_the_file_has_are_refused(shape, tmp_path):
    file, queries = saved(tmp_path), figures(tmp_path)
    assert len(read_per_query(queries).ap) == 2
    rewritten(file, "distance", claimed(shape))
    with pytest.raises(DataError, match="x.npz: not a complete file of ranked lists"):
        read_ranked(file)
    rewritten(queries, "ap", claimed(shape))
    with pytest.raises(DataError, match="q.npz: not a complete file of figures per query"):
        read_per_query(queries)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"occlusion": np.zeros(2)}, "not one row for each query: query_path 3, occlusion 2"),
        ({"pid": np.zeros(3, int)}, "not one row for each listed image: path 8, pid 3, camid 8"),
        ({"map_pid": np.zeros(1, int)}, "not one row for each image of the map"),
        ({"distance": np.zeros((3, 2), np.float32)}, "lists of different lengths"),
        ({"nearest": np.full((3, 8), 99)}, "nearest names rows from -1 to 7, and holds others"),
        ({"nearest": np.zeros((3, 8))}, "nearest names rows from -1 to 7, and holds others"),
        ({"deciding": np.full((3, 8), 2, np.int8)}, "deciding names rows from -1 to -1, and holds others"),
    ],
)
def test_arrays_that_do_not_belong_together_are_refused(changed, told, tmp_path):
    assert read_ranked(saved(tmp_path)).nearest.shape == (3, 8)
    with pytest.raises(DataError, match=told):
        read_ranked(saved(tmp_path, **changed))


def test_figures_of_other_numbers_of_queries_are_refused(tmp_path):
    with pytest.raises(DataError, match="not one row for each query: image 2, pid 2, camid 2, ap 3, first_hit 2"):
        read_per_query(figures(tmp_path, ap=np.zeros(3)))
