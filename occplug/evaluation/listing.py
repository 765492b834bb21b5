"""What a test leaves of its ranked galleries: the nearest images of every query, why they are near, a map of vectors.

A test holds embeddings and distances for a moment only. This keeps the little of them that people look at later, in one
file beside the figures per query, so that a page about a run needs neither its weights nor its data set's features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from occplug.embedding import Embedding
from occplug.errors import DataError
from occplug.evaluation.masked import masked_cosine
from occplug.evaluation.metric import Metric
from occplug.utils.files import plain_name
from occplug.utils.integrity import check_lengths, read_arrays

__all__ = ["Lister", "RankedLists", "ranked_file", "ranked_lists", "read_ranked"]

TOP, GREY = 10, 2  # counted images of each query, and images that the rule leaves out
MAP_IMAGES, MAP_DIMENSIONS = 800, 50
_PAIRS = 64  # queries whose parts are compared with those of their nearest images at a time


@dataclass(frozen=True)
class RankedLists:
    """The nearest gallery images of Q queries; G' images are in at least one list.

    Args:
        query_path: [Q] files.   occlusion: [Q] occluded share of the person, nan where nobody knows it.
        path, pid, camid: [G'] of the listed gallery images.
        nearest: [Q, K] rows of `path`, nearest first, also images of the query's person and camera, which do not count;
            -1 where the gallery has no more.
        distance: [Q, K] float32, infinite at -1.
        part: names of body parts, the whole image first; empty for methods without parts.
        deciding: [Q, K] int8 row of `part` whose share of the distance lies furthest below its mean over the list; -1
            where there are no parts.
        mask_effect: [Q, K] float32, distance with the query's mask less that without; nan for methods without masks.
        map_path, map_pid, map_camid, map_is_query: [M] of sampled images.   map_vector: [M, d] float16, their vectors'
            first principal components.
    """

    query_path: np.ndarray
    occlusion: np.ndarray
    path: np.ndarray
    pid: np.ndarray
    camid: np.ndarray
    nearest: np.ndarray
    distance: np.ndarray
    part: np.ndarray
    deciding: np.ndarray
    mask_effect: np.ndarray
    map_path: np.ndarray
    map_pid: np.ndarray
    map_camid: np.ndarray
    map_is_query: np.ndarray
    map_vector: np.ndarray

    def write(self, file: Path) -> None:
        """Write numpy's compressed archive, one array a field, to exactly `file`."""
        with Path(file).open("wb") as stream:
            np.savez_compressed(stream, **{field.name: getattr(self, field.name) for field in fields(self)})


def ranked_file(run: Path, target: str) -> Path:
    """Where the run in folder `run` keeps the lists of `target`."""
    return Path(run) / "ranked" / f"{plain_name(target)}.npz"


def read_ranked(file: Path) -> RankedLists | None:
    """What :meth:`RankedLists.write` wrote; None if there is no such file. Raises DataError if it is damaged."""
    if not Path(file).is_file():
        return None
    try:
        found = read_arrays(Path(file), [field.name for field in fields(RankedLists)])
        _check(found)
        return RankedLists(**found)
    except ValueError as error:
        raise DataError(f"{file}: not a complete file of ranked lists ({error}); delete it, or test again") from error


def _check(found: dict[str, np.ndarray]) -> None:
    """Raise ValueError for arrays that do not belong together."""
    check_lengths(found, ("query_path", "occlusion", "nearest", "distance", "deciding", "mask_effect"), "query")
    listed = check_lengths(found, ("path", "pid", "camid"), "listed image")
    check_lengths(found, [name for name in found if name.startswith("map_")], "image of the map")
    shapes = {found[name].shape for name in ("nearest", "distance", "deciding", "mask_effect")}
    if len(shapes) > 1 or found["nearest"].ndim != 2:
        raise ValueError(f"lists of different lengths: {sorted(shapes)}")
    for name, most in (("nearest", listed), ("deciding", found["part"].size)):
        rows = found[name]
        if rows.dtype.kind != "i" or (rows.size and not -1 <= rows.min() <= rows.max() < most):
            raise ValueError(f"{name} names rows from -1 to {most - 1}, and holds others")


class Lister:
    """Takes distances a few queries at a time, in order, and keeps the nearest gallery images of each.

    Args:
        q_pids, g_pids, q_camids, g_camids: [Q] or [G] integers.
        top: images that count, of each query.
        grey: images of the query's person and camera, which do not count, kept if they are nearer than the last.
    """

    def __init__(self, q_pids, g_pids, q_camids, g_camids, top: int = TOP, grey: int = GREY):
        self.q = np.asarray(q_pids), np.asarray(q_camids)
        self.g = np.asarray(g_pids), np.asarray(g_camids)
        self.top, self.grey = top, grey
        self._indices: list[Tensor] = []
        self._values: list[Tensor] = []
        self._done = 0

    def watching(self, distance: Callable[[Embedding, Embedding], Tensor]) -> Callable[[Embedding, Embedding], Tensor]:
        """`distance`, each of whose results is added."""

        def watched(query: Embedding, gallery: Embedding) -> Tensor:
            found = distance(query, gallery)
            self.add(found)
            return found

        return watched

    def add(self, distances) -> None:
        """The next queries, `distances` [b, G]."""
        block = torch.as_tensor(distances).detach().float().cpu()
        rows = slice(self._done, self._done + len(block))
        self._done += len(block)
        same = torch.from_numpy((self.q[0][rows, None] == self.g[0]) & (self.q[1][rows, None] == self.g[1]))
        found = block.masked_fill(same, torch.inf).topk(min(self.top, block.shape[1]), dim=1, largest=False)
        values, indices = found.values, found.indices
        if self.grey:
            left = block.masked_fill(~same, torch.inf).topk(min(self.grey, block.shape[1]), dim=1, largest=False)
            finite = values.masked_fill(values.isinf(), -torch.inf).amax(dim=1, keepdim=True)
            nearer = left.values.masked_fill(left.values > finite, torch.inf)
            values, order = torch.cat([values, nearer], dim=1).sort(dim=1, stable=True)
            indices = torch.cat([indices, left.indices], dim=1).gather(1, order)
        self._indices.append(indices.masked_fill(values.isinf(), -1))
        self._values.append(values)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Gallery images and distances [Q, K], nearest first; -1 and infinity where there are no more."""
        return torch.cat(self._indices).numpy(), torch.cat(self._values).numpy()


def ranked_lists(
    lister: Lister, query: Embedding, gallery: Embedding, paths: tuple, metric: Metric | None, parts=(), occlusion=None
) -> RankedLists:
    """What is kept of a test.

    Args:
        lister: that was given all distances.
        query, gallery: embeddings, on the CPU.
        paths: files of the queries and of the gallery.
        metric: the distance as data, or None; says how parts and masks enter it.
        parts: names of the embedding's parts.
        occlusion: [Q] occluded share of each query's person; None: not known.
    """
    nearest, distance = lister.result()
    listed = np.unique(nearest[nearest >= 0])
    place = np.full(len(gallery) + 1, -1, np.int32)  # the last entry is what -1 finds
    place[listed] = np.arange(len(listed))
    names, deciding, effect = _reasons(metric, parts, query, gallery, nearest)
    sampled = _sample(lister)
    return RankedLists(
        np.array(paths[0], dtype=str),
        np.full(len(query), np.nan) if occlusion is None else np.asarray(occlusion, float),
        np.array([paths[1][row] for row in listed], dtype=str),
        lister.g[0][listed],
        lister.g[1][listed],
        place[nearest],
        distance,
        np.array(names, dtype=str),
        deciding,
        effect,
        np.array([paths[0 if is_query else 1][row] for is_query, row in sampled], dtype=str),
        np.array([(lister.q if is_query else lister.g)[0][row] for is_query, row in sampled]),
        np.array([(lister.q if is_query else lister.g)[1][row] for is_query, row in sampled]),
        np.array([is_query for is_query, _ in sampled]),
        _principal(torch.stack([(query if is_query else gallery).vector[row] for is_query, row in sampled])),
    )


def _reasons(metric: Metric | None, parts, query: Embedding, gallery: Embedding, nearest: np.ndarray):
    """Names of parts, the deciding part [Q, K] and the effect of masks [Q, K], as `RankedLists` has them."""
    names: list[str] = []
    deciding = np.full(nearest.shape, -1, np.int8)
    effect = np.full(nearest.shape, np.nan, np.float32)
    if metric is None or metric.name not in ("parts", "masked"):
        return names, deciding, effect
    if metric.name == "parts":
        assert query.parts is not None  # or the distance had objected
        given = list(parts) or [f"part {n + 1}" for n in range(query.parts.shape[1])]
        names = ["whole", *given]
    for start in range(0, len(query), _PAIRS):
        rows = slice(start, start + _PAIRS)
        near = torch.from_numpy(nearest[rows])
        some, others = query[rows], gallery[near.clamp(min=0).flatten()]
        if metric.name == "parts":
            shares = _part_shares(some, others, near.shape[1], **metric.options)
            shares = shares.masked_fill((near < 0)[:, :, None], torch.nan)
            lead = shares.nanmean(dim=1, keepdim=True) - shares
            deciding[rows] = lead.nan_to_num(-torch.inf).argmax(dim=2).masked_fill(near < 0, -1).numpy()
        else:
            found = _mask_effects(some, others, near.shape[1], **metric.options)
            effect[rows] = found.masked_fill(near < 0, torch.nan).numpy()
    return names, deciding, effect


def _part_shares(query: Embedding, others: Embedding, k: int, metric: str = "euclidean", vis_floor: float = 0.1):
    """Summands [b, K, 1 + P] of :func:`occplug.evaluation.part_distance` from b queries to K images each."""
    vectors, seen = [], []
    for side, shape in ((query, (len(query), 1)), (others, (len(query), k))):
        assert side.parts is not None and side.visibility is not None
        whole, parts = F.normalize(side.vector)[:, None], F.normalize(side.parts, dim=2)
        visible = torch.where(side.visibility < vis_floor, 0.0, side.visibility)
        if whole.shape[2] != parts.shape[2]:  # compared each with its like
            width = max(whole.shape[2], parts.shape[2])
            whole, parts = (F.pad(each, (0, width - each.shape[2])) for each in (whole, parts))
        vectors.append(torch.cat([whole, parts], dim=1).unflatten(0, shape))
        seen.append(F.pad(visible, (1, 0), value=1.0).unflatten(0, shape))
    cosine = (vectors[0] * vectors[1]).sum(dim=3)
    weight = seen[0] * seen[1]
    away = 1 - cosine if metric == "cosine" else (2 - 2 * cosine).clamp(min=0).sqrt()
    return weight * away / weight.sum(dim=2, keepdim=True)


def _mask_effects(query: Embedding, others: Embedding, k: int, place: str = "proto_pre") -> Tensor:
    """[b, K]: masked angle less the angle of the same vectors without a mask."""
    assert query.mask is not None
    effects = []
    for row in range(len(query)):
        vector, mask, near = query.vector[row, None], query.mask[row, None], others.vector[row * k : (row + 1) * k]
        with_mask, without = masked_cosine(vector, mask, near, place), F.normalize(vector) @ F.normalize(near).T
        effects.append(with_mask.clamp(-1, 1).acos() - without.clamp(-1, 1).acos())
    return torch.cat(effects)


def _sample(lister: Lister) -> list[tuple[bool, int]]:
    """(is it a query, row) of all images of some of the queries' persons, the same ones every time."""
    persons = np.random.default_rng(0).permutation(np.unique(lister.q[0]))
    chosen: list[tuple[bool, int]] = []
    for person in persons.tolist():
        rows = [(is_query, int(row)) for is_query, side in ((True, lister.q), (False, lister.g))
                for row in np.flatnonzero(side[0] == person)]  # fmt: skip
        if chosen and len(chosen) + len(rows) > MAP_IMAGES:
            break
        chosen += rows[:MAP_IMAGES]
    return chosen


def _principal(vectors: Tensor) -> np.ndarray:
    """The first principal components [M, d] float16 of unit vectors."""
    centred = F.normalize(vectors.float())
    centred = centred - centred.mean(dim=0)
    left, size, _ = torch.linalg.svd(centred, full_matrices=False)
    return (left * size)[:, :MAP_DIMENSIONS].to(torch.float16).numpy()
