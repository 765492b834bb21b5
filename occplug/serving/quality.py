"""What a search engine costs: identity Rank-1 against exact search, on queries like those that will come.

Recall of the nearest vectors says little here. Queries are occluded, so their vectors lie off their identity's; an
engine that looks at little of its index still finds what clean queries are near to, and loses identities of noisy ones.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from occplug.datasets.boxes import CAMERA
from occplug.errors import DataError
from occplug.serving.store import Rows

if TYPE_CHECKING:
    from occplug.serving.gallery import Hits

__all__ = ["CHANGES", "labelled_rows", "measure", "rank1", "tune"]

_log = logging.getLogger(__name__)
QUERIES, TOP = 500, 50  # queries measured with, and how many hits are looked through for one that counts
SLACK = 0.002  # Rank-1 that an engine may lose before more effort is tried
MOST = 4096  # effort
CHANGES = "images_changed_since"  # how many images were added or removed after quality was measured


def labelled_rows(rows: Rows, queries: Rows) -> Rows:
    """`queries`. Raises DataError if no identity of them, or of the gallery's `rows`, is known."""
    for who, held in (("the gallery", rows), ("the queries", queries)):
        if all(pid is None for pid in held.columns.get("pid", [])):
            raise DataError(
                f"queries are given to measure with, and {who} has no pid; give it as metadata (--metadata of the "
                "gallery, --query-metadata of the queries), or leave the queries out"
            )
    return queries


def measure(gallery, queries: Rows | None = None, exact: Hits | None = None) -> dict:
    """Rank-1 of the gallery's engine and of exact search, as plain values kept in the gallery.

    A hit counts as evaluation counts it: images of the query's own identity and camera are passed over, where cameras
    are known.

    Args:
        gallery: a :class:`occplug.serving.gallery.Gallery` with `pid` among its metadata.
        queries: with `pid`, and `camera` where known; None: images of the gallery, each without itself.
        exact: what exact search says, where that is known from an earlier measurement.
    """
    chosen, rows = _queries(gallery, queries)
    if not len(chosen) or len(gallery) < 2:
        return {}
    hits = {"engine": gallery.search(chosen.embedding, min(TOP, len(gallery)))}
    hits["exact"] = exact or gallery.search_exactly(chosen.embedding, TOP)
    rates = {f"rank1_{name}": round(rank1(gallery, chosen, answer.ids, rows), 4) for name, answer in hits.items()}
    same = float((hits["engine"].ids[:, 0] == hits["exact"].ids[:, 0]).mean())
    kind = "given" if queries is not None else "gallery images, each without itself (not occluded: optimistic)"
    return {**rates, "same_first": round(same, 4), "queries": len(chosen), "kind": kind, **_effort(gallery)}


def _effort(gallery) -> dict:
    engine = gallery._engine
    return {engine.tuned: getattr(engine, engine.tuned)} if engine.tuned else {}


def _queries(gallery, queries: Rows | None) -> tuple[Rows, np.ndarray | None]:
    """At most QUERIES of them, spread evenly, and the ids of the gallery that they are themselves, if any."""
    rows = queries if queries is not None else gallery._rows
    known = [place for place, pid in enumerate(rows.columns.get("pid", [])) if pid is not None]
    spread = np.linspace(0, len(known) - 1, min(QUERIES, len(known))).round().astype(int) if known else []
    chosen = rows.chosen([known[place] for place in spread])
    return chosen, None if queries is not None else chosen.ids.numpy()


def rank1(gallery, queries: Rows, ids: np.ndarray, rows: np.ndarray | None) -> float:
    """Share of `queries` whose first hit that counts, among `ids` [Q, K], is of their identity."""
    names = (None if pid is None else str(pid) for pid in gallery.columns["pid"])  # perhaps numbers on one side
    pid = dict(zip(gallery.ids.tolist(), names))
    cameras, asked = _cameras(gallery.columns), _cameras(queries.columns)
    camera = dict(zip(gallery.ids.tolist(), cameras)) if cameras and asked else {}
    right = 0
    for place, row in enumerate(ids.tolist()):
        person = str(queries.columns["pid"][place])
        place_of = asked[place] if camera else None
        for hit in row:
            itself = rows is not None and hit == rows[place]
            if hit < 0 or itself or (pid[hit] == person and camera and camera[hit] == place_of):
                continue
            right += pid[hit] == person
            break
    return right / max(len(ids), 1)


def _cameras(columns: dict[str, list]) -> list:
    """Cameras by any of the names that boxes and tables have for them; empty where none is known."""
    return next((columns[name] for name in CAMERA if name in columns), [])


def tune(gallery, queries: Rows | None = None) -> dict:
    """As `measure`, with the least effort, doubling from 16 on, that loses at most SLACK of exact search's Rank-1."""
    engine = gallery._engine
    if not engine.tuned:
        return measure(gallery, queries)
    exact = gallery.search_exactly(_queries(gallery, queries)[0].embedding, TOP)
    effort, measured = 16, {}
    while effort <= MOST:
        setattr(engine, engine.tuned, effort)
        measured = measure(gallery, queries, exact)
        if not measured or measured["rank1_engine"] >= measured["rank1_exact"] - SLACK:
            break
        effort *= 2
    if measured:
        facts = (
            engine.tuned,
            getattr(engine, engine.tuned),
            *(100 * measured[f"rank1_{way}"] for way in ("engine", "exact")),
        )
        _log.info("%s %d: Rank-1 %.1f %% through the engine, %.1f %% by exact search", *facts)
    return measured
