"""The file of figures per query."""

import numpy as np
import pytest

from occplug.errors import DataError
from occplug.evaluation import PerQuery, rank_distances, read_per_query


@pytest.fixture
def queries():
    distances = [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3]]
    result = rank_distances(distances, [1, 2, 8], [1, 2, 2], [0, 4, 0], [1, 1, 1])
    return PerQuery.of(result, ["a/x.jpg", "b/y.jpg", "z.jpg"])


def test_fields_are_those_of_the_queries(queries):
    assert queries.pid.tolist() == [1, 2, 8] and queries.camid.tolist() == [0, 4, 0]
    assert queries.image.tolist() == ["x.jpg", "y.jpg", "z.jpg"] and queries.first_hit.tolist() == [1, 2, 0]
    assert queries.ap[:2] == pytest.approx([1, (1 / 2 + 2 / 3) / 2])
    assert np.array_equal(queries.rank1, [1, 0, np.nan], equal_nan=True)


def test_it_survives_a_file(queries, tmp_path):
    queries.write(tmp_path / "some.part")  # as write_atomically names it
    back = read_per_query(tmp_path / "some.part")
    for name in ("image", "pid", "camid", "ap", "first_hit"):
        one, other = getattr(queries, name), getattr(back, name)
        assert one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype == float), name


def test_bad_files_are_named(queries, tmp_path):
    file = tmp_path / "toy.npz"
    with pytest.raises(DataError, match="toy.npz: the figures per query are missing; evaluate the run again"):
        read_per_query(file)
    np.savez(file, ap=queries.ap)
    with pytest.raises(DataError, match="toy.npz: not a complete file of figures per query .*image"):
        read_per_query(file)
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(DataError, match="toy.npz: not a complete file"):
        read_per_query(file)
