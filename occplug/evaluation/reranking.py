"""k-reciprocal re-ranking (Zhong et al., CVPR 2017, arXiv 1701.08398) without N x N matrices.

N is the number of queries and gallery images together. torchreid's implementation holds five N x N arrays beside its
inputs; this one holds the first neighbours of each image and two sparse matrices, and gives the same values.
:func:`re_ranking` takes whole distance matrices as torchreid's does; :func:`rerank_embeddings` computes distances from
embeddings, a block of rows at a time, so that no matrix of gallery by gallery exists at all.

Neighbours at exactly the same distance are ordered by their index, queries before gallery images (torchreid's order
depends on the CPU).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
from scipy import sparse
from torch import Tensor

from occplug.embedding import Embedding
from occplug.errors import ConfigError, DataError

__all__ = ["re_ranking", "rerank_embeddings", "reranking_inputs"]

log = logging.getLogger(__name__)

BLOCK = 64  # images per block: a block of distances is 64 x N
# Images per block whose distances are computed: preparing the other side once a block costs little then, and a block
# stays below about 256 MB.
COMPUTED, COMPUTED_NUMBERS = 512, 2**26
MIB = 2**20


def reranking_inputs(q_g, q_q, g_g) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Square roots of three matrices of squared distances: what :func:`re_ranking` must be given for them."""
    return tuple(np.sqrt(np.maximum(distances, 0)) for distances in (q_g, q_q, g_g))


def re_ranking(q_g, q_q, g_g, k1: int = 20, k2: int = 6, lambda_value: float = 0.3) -> np.ndarray:
    """Distances mixed with the Jaccard distance of k-reciprocal neighbourhoods.

    As in torchreid the distances are **squared first**, and each image's are divided by their maximum: pass plain, not
    squared distances (see :func:`reranking_inputs`).
    Result: (1 - lambda) Jaccard + lambda original, equations 3 to 12 of the paper.

    Args:
        q_g: [Q, G] distances, smaller is closer.
        q_q: [Q, Q] distances among the queries.
        g_g: [G, G] distances among the gallery images.
        k1: neighbours that may be reciprocal.
        k2: neighbours whose neighbourhoods are averaged (local query expansion).
        lambda_value: weight of the original distance, in [0, 1].
    Returns: [Q, G] float32.
    Raises: ValueError if the shapes do not fit; ConfigError for a wrong k1, k2, lambda; DataError for nan, no image.
    """
    return np.concatenate(list(_rerank(_Matrices(q_g, q_q, g_g), k1, k2, lambda_value)))


def rerank_embeddings(
    distance: Callable[[Embedding, Embedding], Tensor],
    query: Embedding,
    gallery: Embedding,
    squared: bool,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> Iterator[np.ndarray]:
    """The rows of :func:`re_ranking`, a block of queries at a time, from embeddings.

    Distances are computed twice (for the neighbours and for their weights) and never kept. What memory this takes
    beside the embeddings is logged before it starts.

    Args:
        distance: distances [q, g] of two sets of embeddings, smaller is closer.
        query, gallery: of Q and G images.
        squared: whether `distance` gives squared distances (or the cosine distance, which is half of one). Plain ones
            are squared first, as torchreid's function does.
        k1, k2, lambda_value: as in :func:`re_ranking`.
    Yields: [b, G] float32, the queries in order.
    Raises: as :func:`re_ranking`.
    """
    pairs = _Computed(distance, query, gallery, squared)
    rows = pairs.block * pairs.total * 4 * 4  # the block, its partition, its sorted part, one side before the join
    listed = pairs.total * (k1 + 1) * 4 * 16  # neighbours, and about 16 weights for each of them
    log.info(
        "re-ranking %d queries and %d gallery images in blocks of %d: about %d MiB beside the embeddings (whole "
        "matrices would be %d MiB each)",
        pairs.queries,
        pairs.gallery,
        pairs.block,
        (rows + listed) // MIB + 1,
        pairs.gallery**2 * 4 // MIB + 1,
    )
    return _rerank(pairs, k1, k2, lambda_value)


def _rerank(pairs: _Pairs, k1: int, k2: int, lambda_value: float) -> Iterator[np.ndarray]:
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ConfigError(
            f"re-ranking needs k1 and k2 of at least 1 and lambda in [0, 1], got {k1}, {k2} and {lambda_value}"
        )
    half = int(np.around(k1 / 2))
    neighbours = _nearest(pairs, min(max(k1 + 1, k2, half + 1), pairs.total))  # [N, K]
    weights = _neighbourhoods(pairs, neighbours[:, : k1 + 1], neighbours[:, : half + 1])
    if k2 > 1:
        weights = _expanded(weights, neighbours[:, :k2])
    return _mixed(pairs, weights, lambda_value)


class _Pairs:
    """The N x N matrix torchreid would build: row i is image i's squared distances over their maximum.

    Subclasses say how a block of it is had. Queries come first.
    """

    def __init__(self, queries: int, gallery: int, block: int):
        if not queries or not gallery:
            raise DataError(f"there is nothing to re-rank: {queries} queries, {gallery} gallery images")
        self.queries, self.gallery, self.total, self.block = queries, gallery, queries + gallery, block
        self.maximum = np.empty(self.total, np.float32)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Squared distances [stop - start, N] of images on one side; sets their `maximum`.

        Raises: DataError if one is nan.
        """
        rows = self.squares(start, stop)
        largest = rows.max(axis=1)
        if np.isnan(largest).any():
            raise DataError(
                f"the distances of image {start + int(np.isnan(largest).argmax())} (queries first) hold nan; "
                "the embeddings are not finite"
            )
        self.maximum[start:stop] = np.where(largest > 0, largest, 1)
        return rows

    def squares(self, start: int, stop: int) -> np.ndarray:
        """Squared distances [stop - start, N] float32 of images on one side, from all images to them."""
        raise TypeError(f"{type(self).__name__} does not state its distances")

    def entries(self, start: int, stop: int, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Single entries of the matrix in the rows from `start` to `stop`, one side's; `row` counts from `start`."""
        return self.squares(start, stop)[row, column] / self.maximum[start:stop][row]

    def to_gallery(self, start: int, stop: int) -> np.ndarray:
        """Squared distances [stop - start, G] of queries to the gallery."""
        raise TypeError(f"{type(self).__name__} does not state its distances")

    def blocks(self, *sides: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Ranges of at most `block` images that do not mix queries and gallery; of both sides unless some are given."""
        for start, stop in sides or ((0, self.queries), (self.queries, self.total)):
            for first in range(start, stop, self.block):
                yield first, min(first + self.block, stop)


class _Matrices(_Pairs):
    """Of three matrices of plain distances."""

    def __init__(self, q_g, q_q, g_g):
        self.q_g, self.q_q, self.g_g = np.asarray(q_g), np.asarray(q_q), np.asarray(g_g)
        shapes = [a.shape for a in (self.q_g, self.q_q, self.g_g)]
        if self.q_g.ndim != 2 or shapes[1] != (shapes[0][0],) * 2 or shapes[2] != (shapes[0][1],) * 2:
            raise ValueError("q_g, q_q and g_g are [Q, G], [Q, Q] and [G, G], got {}, {} and {}".format(*shapes))
        queries, gallery = self.q_g.shape
        super().__init__(queries, gallery, BLOCK)

    def squares(self, start: int, stop: int) -> np.ndarray:
        """As the base's; the side a row is of decides which matrices hold it."""
        if start < self.queries:
            from_query, from_gallery = self.q_q[:, start:stop], self.q_g[start:stop].T
        else:
            columns = slice(start - self.queries, stop - self.queries)
            from_query, from_gallery = self.q_g[:, columns], self.g_g[:, columns]
        rows = np.empty((stop - start, self.total), np.float32)
        rows[:, : self.queries] = np.square(from_query).T
        rows[:, self.queries :] = np.square(from_gallery).T
        return rows

    def entries(self, start: int, stop: int, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """As the base's, without the rest of the rows."""
        values = np.empty(row.shape, np.float32)
        for is_query in (True, False):
            chosen = (column < self.queries) == is_query
            values[chosen] = self._entries(row[chosen] + start, column[chosen], start < self.queries, is_query)
        return values / self.maximum[start:stop][row]

    def _entries(self, row, column, row_is_query: bool, column_is_query: bool) -> np.ndarray:
        q = self.queries
        if row_is_query:
            distances = self.q_q[column, row] if column_is_query else self.q_g[row, column - q]
        else:
            distances = self.q_g[column, row - q] if column_is_query else self.g_g[column - q, row - q]
        return np.square(distances)

    def to_gallery(self, start: int, stop: int) -> np.ndarray:
        """As the base's."""
        return np.square(self.q_g[start:stop])


class _Computed(_Pairs):
    """Of embeddings, computed again at every call."""

    def __init__(self, distance: Callable, query: Embedding, gallery: Embedding, squared: bool):
        self.distance, self.query, self.images, self.squared = distance, query, gallery, squared
        total = len(query) + len(gallery)
        super().__init__(len(query), len(gallery), max(1, min(COMPUTED, COMPUTED_NUMBERS // max(total, 1))))

    def squares(self, start: int, stop: int) -> np.ndarray:
        """As the base's; torchreid takes the distance between a query and a gallery image from the query's side."""
        rows = np.empty((stop - start, self.total), np.float32)
        if start < self.queries:
            images = self.query[start:stop]
            rows[:, : self.queries] = self._between(self.query, images).T
            rows[:, self.queries :] = self._between(images, self.images)
        else:
            images = self.images[start - self.queries : stop - self.queries]
            rows[:, : self.queries] = self._between(self.query, images).T
            rows[:, self.queries :] = self._between(self.images, images).T
        return rows

    def to_gallery(self, start: int, stop: int) -> np.ndarray:
        """As the base's."""
        return self._between(self.query[start:stop], self.images)

    def _between(self, one: Embedding, other: Embedding) -> np.ndarray:
        distances = self.distance(one, other).detach().cpu().numpy()
        return np.maximum(distances, 0) if self.squared else np.square(distances)


def _nearest(pairs: _Pairs, count: int) -> np.ndarray:
    """Indices [N, count] int32 of each image's nearest images, itself among them, nearest first."""
    nearest = np.empty((pairs.total, count), np.int32)
    for start, stop in pairs.blocks():
        nearest[start:stop] = _smallest(pairs.rows(start, stop), count)
    return nearest


def _smallest(rows: np.ndarray, count: int) -> np.ndarray:
    """Columns [b, count] of the smallest entries of each row, in order; equal entries by column."""
    limit = np.partition(rows, count - 1, axis=1)[:, count - 1]
    flat = np.flatnonzero(rows <= limit[:, None])  # at least `count` in each row
    row, column = np.divmod(flat, rows.shape[1])
    order = np.lexsort((rows.ravel()[flat], row))  # stable: equal entries stay in the order of their columns
    first = np.searchsorted(row, np.arange(len(rows)))  # where each row starts, before and after sorting
    return column[order][first[:, None] + np.arange(count)]


def _reciprocal(neighbours: np.ndarray) -> np.ndarray:
    """Which entries of `neighbours` [N, K] have the row's image among their own neighbours, [N, K] bool."""
    mutual = np.empty(neighbours.shape, bool)
    for start in range(0, len(neighbours), BLOCK):
        block = neighbours[start : start + BLOCK]
        rows = np.arange(start, start + len(block))[:, None, None]
        mutual[start : start + BLOCK] = (neighbours[block] == rows).any(axis=2)  # [b, K, K] -> [b, K]
    return mutual


def _neighbourhoods(pairs: _Pairs, wide: np.ndarray, narrow: np.ndarray) -> sparse.csr_matrix:
    """V of equation 7, [N, N]: weights of each image's expanded k-reciprocal neighbourhood, each row summing to 1.

    `wide` [N, k1 + 1] and `narrow` [N, k1 / 2 + 1] are first neighbours. A reciprocal neighbour's narrow reciprocal set
    is added if more than two thirds of it are in the image's set (equation 4).
    """
    wide_mutual, narrow_mutual = _reciprocal(wide), _reciprocal(narrow)
    member = np.zeros((pairs.block, pairs.total), bool)
    columns, values, counts = [], [], []
    for start, stop in pairs.blocks():
        near, mutual = wide[start:stop], wide_mutual[start:stop]
        members = member[: len(near)]
        members[:] = False
        row, place = np.nonzero(mutual)
        candidate = near[row, place]  # one entry per reciprocal neighbour
        members[row, candidate] = True
        theirs, is_theirs = narrow[candidate], narrow_mutual[candidate]  # [c, k1 / 2 + 1]
        shared = (members[row[:, None], theirs] & is_theirs).sum(axis=1)
        added = is_theirs & (shared > 2 / 3 * is_theirs.sum(axis=1))[:, None]
        members[np.broadcast_to(row[:, None], theirs.shape)[added], theirs[added]] = True
        row, column = np.divmod(np.flatnonzero(members), pairs.total)
        weight = np.exp(-pairs.entries(start, stop, row, column))
        sums = np.bincount(row, weight, minlength=len(near)).astype(np.float32)
        columns.append(column.astype(np.int32))
        values.append(weight / sums[row])
        counts.append(np.bincount(row, minlength=len(near)))
    return _rows_to_sparse(columns, values, counts, pairs.total)


def _rows_to_sparse(columns, values, counts, width: int) -> sparse.csr_matrix:
    starts = np.concatenate([[0], np.concatenate(counts).cumsum()])
    return sparse.csr_matrix((np.concatenate(values), np.concatenate(columns), starts), shape=(len(starts) - 1, width))


def _expanded(weights: sparse.csr_matrix, nearest: np.ndarray) -> sparse.csr_matrix:
    """Mean of the weights of each image's `nearest` [N, k2] images (local query expansion)."""
    total, k2 = nearest.shape
    chosen = sparse.csr_matrix(
        (np.ones(total * k2, np.float32), nearest.ravel(), np.arange(total + 1) * k2), shape=(total, total)
    )
    expanded = chosen @ weights
    expanded.data /= np.float32(k2)
    return expanded


def _mixed(pairs: _Pairs, weights: sparse.csr_matrix, lambda_value: float) -> Iterator[np.ndarray]:
    """Jaccard distance (equation 10) of the queries' weights to the gallery's, mixed with the original distance."""
    of_queries = weights[: pairs.queries]
    of_gallery = weights[pairs.queries :].tocsc()  # by column: which gallery images have it as a neighbour
    for start, stop in pairs.blocks((0, pairs.queries)):
        overlap = _overlap(of_queries[start:stop], of_gallery)
        jaccard = 1 - overlap / (2 - overlap)
        original = pairs.to_gallery(start, stop) / pairs.maximum[start:stop, None]
        yield (jaccard * (1 - lambda_value) + original * lambda_value).astype(np.float32)


def _overlap(rows: sparse.csr_matrix, columns: sparse.csc_matrix) -> np.ndarray:
    """sum_n min(rows[i, n], columns[j, n]) for all i and j, [b, G] float64."""
    first = columns.indptr[rows.indices].astype(np.int64)
    sizes = np.diff(columns.indptr)[rows.indices]  # entries of `columns` that meet each entry of `rows`
    ends = sizes.cumsum()
    place = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - (ends - sizes), sizes)
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    key = np.repeat(row * columns.shape[0], sizes) + columns.indices[place]
    smaller = np.minimum(np.repeat(rows.data, sizes), columns.data[place])
    return np.bincount(key, smaller, minlength=rows.shape[0] * columns.shape[0]).reshape(rows.shape[0], -1)
