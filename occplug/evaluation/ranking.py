"""CMC and mAP of ranked galleries under the market1501 rule, a block of queries at a time.

For every query the gallery images of the same person *and* the same camera are left out. Values are those of
torchreid's `evaluate_rank`, but for two cases in which torchreid's depend on chance or do not exist:

* **Ties.** A gallery image of another person at exactly the same distance as a match is ranked before the match. The
  result does not depend on the order of the gallery or on the CPU (torchreid's sort is not stable), and a model that
  gives every image the same embedding gets Rank-1 0, not 1.
* **Short galleries.** With fewer than `max_rank` gallery images the CMC is as long as the gallery. A query from whose
  gallery images were left out keeps its last CMC value up to that length (torchreid's curves get unequal lengths there,
  which numpy refuses, or all end earlier).

Rows are not sorted by distance. A match's rank is the number of other identities' images that are not farther, plus its
place among the matches: for a few matches a comparison with the whole row counts them, for many a sorted row does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from occplug.embedding import Embedding
from occplug.errors import DataError

__all__ = ["RankResult", "Ranker", "by_group", "evaluate_embeddings", "evaluate_rank", "rank_distances"]

log = logging.getLogger(__name__)

RANKS = (1, 5, 10, 20)
# Up to about this many matches one comparison each costs no more than sorting the row (at 17,661: 0.11 and 0.09 ms;
# without AVX2 sorting takes 1.1 ms and comparing still 0.12).
FEW_MATCHES = 32


@dataclass
class RankResult:
    """How well Q queries were ranked; fractions in [0, 1].

    Args:
        cmc: [max_rank] float32; `cmc[k - 1]` is the share of queries with a match among the first k.
        mAP: mean average precision, over the queries that have a match.
        ap: [Q] float64 average precision, nan for a query without a match.
        first_hit: [Q] int64 rank of the first match, from 1; 0 for a query without a match.
        num_gallery: gallery images.
        pids, camids: [Q] int64, of the queries.
    """

    cmc: np.ndarray
    mAP: float
    ap: np.ndarray
    first_hit: np.ndarray
    num_gallery: int
    pids: np.ndarray
    camids: np.ndarray

    @property
    def num_query(self) -> int:
        """All queries, also those without a match."""
        return len(self.ap)

    @property
    def num_valid(self) -> int:
        """Queries with a match in the gallery: those the averages are over."""
        return int((self.first_hit > 0).sum())

    def rank(self, k: int) -> float:
        """CMC at rank k; of a gallery with fewer images, at its last rank."""
        return float(self.cmc[min(k, len(self.cmc)) - 1])

    def summary(self) -> dict[str, float | int]:
        """The entries of `metrics.json`; `num_query_valid` are the queries that the averages are over."""
        ranks = {f"rank{k}": self.rank(k) for k in RANKS}
        counts = {"num_query": self.num_query, "num_query_valid": self.num_valid, "num_gallery": self.num_gallery}
        return {"mAP": self.mAP, **ranks, **counts}

    def __str__(self) -> str:
        ranks = ", ".join(f"Rank-{k} {100 * self.rank(k):.1f} %" for k in RANKS)
        return f"mAP {100 * self.mAP:.1f} %, {ranks} ({self.num_valid} queries, {self.num_gallery} gallery images)"


class Ranker:
    """Takes distances a few queries at a time and keeps, per query, only average precision and first hit.

    Args:
        q_pids, g_pids, q_camids, g_camids: [Q] or [G] integers.
        max_rank: length of the CMC, cut to the gallery's size.

    Raises:
        ValueError: arrays of unequal length, or not of integers.
        DataError: no query, no gallery image, or no query with a match.
    """

    def __init__(self, q_pids, g_pids, q_camids, g_camids, max_rank: int = 50):
        self.q_pids, self.q_camids = _ids("q_pids", q_pids), _ids("q_camids", q_camids)
        g_pids, self.g_camids = _ids("g_pids", g_pids), _ids("g_camids", g_camids)
        if self.q_pids.shape != self.q_camids.shape or g_pids.shape != self.g_camids.shape:
            sizes = [len(a) for a in (self.q_pids, self.q_camids, g_pids, self.g_camids)]
            raise ValueError("pids and camids differ in number: {} and {} (query), {} and {} (gallery)".format(*sizes))
        for side, pids in (("query", self.q_pids), ("gallery", g_pids)):
            if not len(pids):
                raise DataError(f"there is no {side} image to rank; check the data set's {side} folder")
        self.shape = (len(self.q_pids), len(g_pids))
        self.max_rank = min(max_rank, len(g_pids))
        if self.max_rank < max_rank:
            log.warning("the gallery has %d images; CMC ends at rank %d", len(g_pids), self.max_rank)
        self._order = np.argsort(g_pids, kind="stable")
        ordered = g_pids[self._order]
        self._first = np.searchsorted(ordered, self.q_pids, "left")
        self._last = np.searchsorted(ordered, self.q_pids, "right")
        self._ap = np.full(len(q_pids), np.nan)
        self._first_hit = np.zeros(len(q_pids), np.int64)
        self._done = 0

    def add(self, distances) -> None:
        """Rank the next queries, `distances` [b, G] (array or CPU tensor).

        Raises:
            ValueError: wrong shape.
            DataError: a distance is not a number.
        """
        if isinstance(distances, torch.Tensor):
            distances = distances.detach().float() if distances.dtype == torch.bfloat16 else distances.detach()
        distances = np.asarray(distances)
        left = self.shape[0] - self._done
        if distances.ndim != 2 or distances.shape[1] != self.shape[1] or len(distances) > left:
            raise ValueError(f"distances are [at most {left}, {self.shape[1]}], got {list(distances.shape)}")
        if distances.dtype not in (np.float32, np.float64):
            distances = distances.astype(np.float32 if distances.dtype == np.float16 else np.float64)
        for row in distances:
            self._rank_next(row)

    def _rank_next(self, row: np.ndarray) -> None:
        query = self._done
        if np.isnan(row.max()):
            raise DataError(
                f"the distances of query {query} hold nan: the model's embeddings are not finite "
                "(a diverged or damaged checkpoint?)"
            )
        same = self._order[self._first[query] : self._last[query]]
        matches = same[self.g_camids[same] != self.q_camids[query]]
        if len(matches):
            positions = _positions(row, np.sort(row[matches]), same)
            self._ap[query] = (np.arange(1, len(positions) + 1) / positions).mean()
            self._first_hit[query] = positions[0]
        self._done += 1

    def result(self) -> RankResult:
        """The figures over all queries.

        Raises:
            ValueError: some queries have not been added.
            DataError: none has a match.
        """
        if self._done < self.shape[0]:
            raise ValueError(f"distances of {self._done} of {self.shape[0]} queries were added")
        hits = self._first_hit[self._first_hit > 0]
        if not len(hits):
            raise DataError(
                f"none of the {self.shape[0]} queries has a match in the gallery (same pid, other camid); "
                "check that query and gallery belong together and that camera numbers are read from the file names"
            )
        counts = np.bincount(np.minimum(hits, self.max_rank + 1), minlength=self.max_rank + 2)
        cmc = counts[1:-1].cumsum().astype(np.float32) / float(len(hits))
        mean = float(np.nanmean(self._ap))
        return RankResult(cmc, mean, self._ap, self._first_hit, self.shape[1], self.q_pids, self.q_camids)


def _ids(name: str, values) -> np.ndarray:
    values = np.asarray(values)
    is_whole = values.dtype.kind in "iu" or (values.dtype.kind == "f" and (values == np.round(values)).all())
    if values.ndim != 1 or not is_whole:
        raise ValueError(f"{name} is one row of integers, got {values.dtype} of shape {list(values.shape)}")
    return values.astype(np.int64, copy=False)


def _positions(row: np.ndarray, matches: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Ranks, from 1, of the sorted distances `matches` [m]; `same` [s]: places of the query's identity in `row`."""
    others = row.copy()
    others[same] = np.inf
    if len(matches) > FEW_MATCHES:
        others.sort()
        before = np.searchsorted(others, matches, "right")
    else:
        before = np.array([np.count_nonzero(others <= distance) for distance in matches])
    before = np.minimum(before, len(row) - len(same))  # a match at infinity does not rank after `same`
    return before + np.arange(1, len(matches) + 1)


def rank_distances(distmat, q_pids, g_pids, q_camids, g_camids, max_rank: int = 50) -> RankResult:
    """CMC, mAP and per-query figures of a whole distance matrix [Q, G]. Raises as :class:`Ranker`."""
    ranker = Ranker(q_pids, g_pids, q_camids, g_camids, max_rank)
    if np.shape(distmat) != ranker.shape:
        raise ValueError(f"distmat is [Q, G] = {list(ranker.shape)} after the pids, got {list(np.shape(distmat))}")
    ranker.add(distmat)
    return ranker.result()


def evaluate_rank(distmat, q_pids, g_pids, q_camids, g_camids, max_rank: int = 50) -> tuple[np.ndarray, float]:
    """torchreid's function of this name: (cmc [max_rank] float32, mAP), fractions in [0, 1].

    The market1501 metric. Ties, short galleries and errors are as stated at the top of this file.

    Args:
        distmat: [Q, G] array, smaller is closer.
        q_pids, g_pids, q_camids, g_camids: [Q] or [G] integers.
        max_rank: length of the CMC, cut to G.
    Raises: ValueError for shapes that do not fit; DataError if a side is empty, a distance is nan, or no query has a
        match (there torchreid fails an assertion).
    """
    result = rank_distances(distmat, q_pids, g_pids, q_camids, g_camids, max_rank)
    return result.cmc, result.mAP


def evaluate_embeddings(
    distance: Callable[[Embedding, Embedding], Tensor],
    query: Embedding,
    gallery: Embedding,
    q_pids,
    g_pids,
    q_camids,
    g_camids,
    max_rank: int = 50,
    block: int = 256,
) -> RankResult:
    """As :func:`rank_distances`, from embeddings; the distance matrix exists only `block` rows at a time.

    Args:
        distance: distances [b, G] of a block of queries to the gallery, on any device; smaller is closer.
        query, gallery: of Q and G images.
        block: queries per call of `distance`.
    Raises: as :class:`Ranker`; ValueError if embeddings and pids differ in number.
    """
    if (len(query), len(gallery)) != (len(q_pids), len(g_pids)):
        raise ValueError(f"{len(query)} and {len(gallery)} embeddings for {len(q_pids)} and {len(g_pids)} pids")
    ranker = Ranker(q_pids, g_pids, q_camids, g_camids, max_rank)
    for start in range(0, len(query), block):
        ranker.add(distance(query[start : start + block], gallery).detach().cpu())
    return ranker.result()


def by_group(result: RankResult, labels) -> list[dict]:
    """The figures per group of queries, e.g. per occluder or bin of occlusion ratio: rows in the order of the labels.

    Args:
        result: of Q queries.
        labels: [Q] values that can be sorted; one group per value.
    Returns: rows of `group`, `queries` (with a match), `mAP`, `rank1`, `rank5`, `rank10`; nan in a group without any.
    Raises: ValueError if there are not Q labels.
    """
    labels = np.asarray(labels)
    if labels.shape != result.ap.shape:
        raise ValueError(f"{result.num_query} queries need as many labels, got shape {list(labels.shape)}")
    rows = []
    for group in np.unique(labels):
        chosen = (labels == group) & (result.first_hit > 0)
        hits, ap = result.first_hit[chosen], result.ap[chosen]
        ranks = {f"rank{k}": float((hits <= k).mean()) if len(hits) else float("nan") for k in RANKS[:3]}
        mean = float(ap.mean()) if len(ap) else float("nan")
        rows.append({"group": group.item(), "queries": len(hits), "mAP": mean, **ranks})
    return rows
