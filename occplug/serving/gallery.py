"""A gallery of embeddings to search: one interface, three engines, and the method's own distance in all of them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import cast

import numpy as np
import torch
from torch import Tensor

from occplug.embedding import Embedding, Origin, check_embedding
from occplug.errors import ConfigError, DataError, OutputError
from occplug.evaluation import Metric
from occplug.serving.engines import Engine, build_engine
from occplug.serving.hits import Hits, full, in_order, numbers
from occplug.serving.newrows import check_layout, new_rows, tell_copies
from occplug.serving.quality import CHANGES, labelled_rows, measure, tune
from occplug.serving.store import FileStore, FolderStore, Rows, Store, checksum, open_store
from occplug.serving.where import matching
from occplug.utils.files import write_atomically

__all__ = ["Gallery", "Hits"]

_log = logging.getLogger(__name__)
Distance = Callable[[Embedding, Embedding], Tensor]
BLOCK = 16384  # gallery rows of a block of distances
FEW = 4096  # so few rows are compared one by one rather than searched with an engine


class Gallery:
    """Embeddings with ids and metadata; made by :meth:`build` or :meth:`load`.

    A gallery that has been saved or loaded belongs to its path: `add` and `remove` are on the disk when they return.

    Attributes:
        ids: [N] int64.   columns: metadata, name -> N values.   embedding: of the N images.
        quality: what the engine costs in identity Rank-1, where labels were known (:mod:`occplug.serving.quality`);
            with how many images were added or removed since it was measured.
    """

    def __init__(self, rows: Rows, engine: Engine, name: str, distance: Distance | None, metric: Metric | None):
        self._rows, self._engine, self.engine = rows, engine, name
        self._metric = metric or (_metric_of(rows.embedding) if distance is None else None)
        self._distance = distance or cast("Metric", self._metric)
        self._next = int(rows.ids.max()) + 1 if len(rows) else 0
        self._store: FolderStore | FileStore | None = None
        self._version = 0
        self.quality: dict = {}
        self._index: dict | None = None  # file and checksum of what the engine wrote
        self._order: np.ndarray | None = None

    # ------------------------------------------------------------------ making

    @classmethod
    def build(
        cls,
        embedding: Embedding,
        engine: str = "exact",
        *,
        ids: Sequence[int] | None = None,
        metadata: Mapping[str, Sequence] | None = None,
        distance: Distance | None = None,
        queries: Embedding | None = None,
        query_metadata: Mapping[str, Sequence] | None = None,
        half: bool = False,
        **options,
    ) -> Gallery:
        """A gallery of `embedding`, in memory until :meth:`save`.

        Args:
            embedding: of N images.
            engine: "exact", "faiss" or "milvus".
            ids: [N] whole numbers, each once; counted from 0 if not given.
            metadata: name -> N values (numbers, texts or None), for `where`; the images' paths are there as `path`.
                The names `pid` and `camera` (or `camera_id`, `camid`) are those that quality is measured with.
            distance: [Q, G] from two embeddings; by default the method's own, as the embedding says.
            queries: images like those that will be searched for, e.g. occluded ones; with `query_metadata` (`pid`, and
                `camera` where the camera rule counts) and `pid` in `metadata` the engine's Rank-1 is measured beside
                that of exact search, and its effort chosen. Without `queries` gallery images stand in for them.
            half: keep embeddings in float16, half the size; saved and loaded, they are mapped from their file.
            options: the engine's own.

        Raises:
            ConfigError: no such engine or option, or its package is not installed.
            DataError: other numbers of ids or metadata than images, ids that are there twice, an embedding that is
                not finite, or `queries` to measure with where `pid` is not known.
        """
        check_embedding(embedding, "the gallery's embeddings")
        metric, rows = _metric_of(embedding) if distance is None else None, new_rows(embedding, ids, metadata, 0)
        tell_copies(rows.columns.get("path", []))
        if half:
            rows.embedding = rows.embedding.to(torch.float16)
            rows.embedding.check_finite("an image for the gallery")
        labelled = None if queries is None else labelled_rows(rows, new_rows(queries, None, query_metadata, 0))
        made = cls(rows, build_engine(engine, _by_angle(metric), options), engine, distance, metric)
        made._rebuild()
        if "pid" in made.columns:
            chosen_by_hand = options.get(made._engine.tuned) is not None
            made.quality = measure(made, labelled) if chosen_by_hand else tune(made, labelled)
        return made

    def _rebuild(self) -> None:
        if not self._engine.is_exact:
            self._engine.build(self.embedding.vector, self.ids)

    # ------------------------------------------------------------------ what is in it

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> np.ndarray:
        """[N] int64."""
        return self._rows.ids.numpy()

    @property
    def columns(self) -> dict[str, list]:
        """Metadata, name -> N values."""
        return self._rows.columns

    @property
    def embedding(self) -> Embedding:
        """Of the N images, in the order of `ids`."""
        return self._rows.embedding

    def describe(self, ids: Sequence[int]) -> list[dict]:
        """Metadata of the images `ids`, one dict each."""
        return [{name: values[place] for name, values in self.columns.items()} for place in self._places(ids)]

    def info(self) -> dict:
        """Number of images, engine, distance, model, metadata names and measured quality, as plain values."""
        origin = self.embedding.origin or Origin()
        return {
            "images": len(self),
            "engine": self.engine,
            "options": self._engine.options(),
            "distance": self._metric.as_dict() if self._metric is not None else "a function",
            "model": origin.model,
            "preprocessing": origin.preprocessing,
            "metadata": list(self.columns),
            "quality": self.quality,
            "path": "" if self._store is None else str(self._store.path),
            "version": self._version,
        }

    def _places(self, ids) -> np.ndarray:
        """Where the images `ids` stand. Raises DataError for an id that is not there."""
        ids = np.asarray(ids, np.int64)
        places, known = self._looked_up(ids)
        if not known.all():
            missing = np.unique(ids[~known])
            raise DataError(f"the gallery has no image with id {', '.join(map(str, missing[:5].tolist()))}")
        return places

    def _looked_up(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the images `ids` stand, and which of them are there, both of the shape of `ids`."""
        if not len(self):
            return np.zeros(ids.shape, np.int64), np.zeros(ids.shape, bool)
        if self._order is None:
            self._order = np.argsort(self.ids, kind="stable")
        places = self._order[np.searchsorted(self.ids, ids, sorter=self._order).clip(max=len(self) - 1)]
        return places, self.ids[places] == ids

    # ------------------------------------------------------------------ changing

    def add(
        self, embedding: Embedding, metadata: Mapping[str, Sequence] | None = None, ids: Sequence[int] | None = None
    ) -> np.ndarray:
        """Add images; returns their ids [n]. On the disk when it returns, if the gallery has been saved or loaded.

        Raises:
            DataError: embeddings of another model, ids that are there already, or wrong numbers of metadata.
        """
        self.embedding.check_same_model(embedding, "the gallery's embeddings", "those to be added", flip=True)
        check_layout(self.embedding, embedding)
        with _writing(self._store):
            self.refresh()
            rows = new_rows(embedding.to(self.embedding.vector.dtype), ids, metadata, self._next)
            twice = np.intersect1d(rows.ids.numpy(), self.ids)
            if len(twice):
                raise DataError(f"the gallery already has an image with id {twice[0]}; leave ids out to have new ones")
            tell_copies(rows.columns.get("path", []), self.columns.get("path", []))
            with self._indexed(rows), self._changed(len(rows)):
                if self._store is not None:
                    self._next = max(self._next, int(rows.ids.max()) + 1 if len(rows) else 0)
                    self._version = self._store.append(rows, self._header())
            self._take(Rows.cat([self._rows, rows]))
            self._renew_index()
        return rows.ids.numpy()

    @contextlib.contextmanager
    def _indexed(self, rows: Rows) -> Iterator[None]:
        """Put `rows` into the index, and out of it again if that or what follows fails: a new try adds them once."""
        if self._engine.is_exact or not len(rows):
            yield
            return
        try:
            self._engine.add(rows.embedding.vector, rows.ids.numpy())
            yield
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is the one to be told
                self._engine.remove(rows.ids.numpy())
            raise

    def remove(self, ids: Sequence[int] | None = None, where: str | None = None) -> int:
        """Remove images by id or by a condition on their metadata; returns how many went. On the disk as for `add`.

        Raises:
            DataError: an id that is not there.   ConfigError: neither or both given, or a wrong condition.
        """
        if (ids is None) == (where is None):
            raise ConfigError("say which images to remove, by ids or by where")
        with _writing(self._store):
            self.refresh()
            gone = np.zeros(len(self), bool)
            if where is not None:
                gone = matching(where, self.columns, len(self))
            else:
                gone[self._places(ids)] = True
            chosen = self.ids[gone]
            with self._changed(len(chosen)):
                if self._store is not None and len(chosen):
                    self._version = self._store.remove(chosen.tolist(), self._header())
            self._take(self._rows.without(torch.from_numpy(gone)))
            if not self._engine.is_exact and len(chosen):
                self._engine.remove(chosen)
            self._renew_index()
        return len(chosen)

    @contextlib.contextmanager
    def _changed(self, count: int) -> Iterator[None]:
        """Note with the measured quality that `count` images come or go, unless that fails."""
        before = self.quality
        if before and count:
            self.quality = {**before, CHANGES: before.get(CHANGES, 0) + count}
        try:
            yield
        except BaseException:
            self.quality = before
            raise

    def _take(self, rows: Rows) -> None:
        self._rows, self._order = rows, None
        self._next = max(self._next, int(rows.ids.max()) + 1 if len(rows) else 0)

    def _renew_index(self) -> None:
        """Build the index again if it has changed so much that its codes no longer fit.

        The change is made and kept by then, so what fails here is no reason to make it again.
        """
        if self._engine.is_exact or not self._engine.wants_rebuild:
            return
        try:
            self._rebuild()
            if self._store is not None:
                self._write_index()
        except (ConfigError, OutputError, OSError, RuntimeError) as error:
            _log.warning("the images are kept, but their index could not be built again: %s", error)

    def refresh(self) -> bool:
        """Read what other processes have changed since; whether there was anything.

        An index that all processes share holds it already: who changes the gallery changes the index.
        """
        if self._store is None or self._store.version() == self._version:
            return False
        before = self.ids
        rows, header = self._store.read()
        self._take(rows)
        self._version, self.quality = header["version"], header.get("quality", {})
        self._next = max(self._next, header.get("next", 0))
        if not self._engine.is_exact and not self._engine.shared:
            self._catch_up(before)
        return True

    # ------------------------------------------------------------------ searching

    @torch.no_grad()
    def search(
        self, embedding: Embedding, top: int = 10, where: str | None = None, candidates: int | None = None
    ) -> Hits:
        """The `top` images nearest to each of the Q `embedding`s; fewer if the gallery has fewer.

        Args:
            where: condition on the metadata, e.g. `camera != 3 and time >= 100`.
            candidates: how many images an engine proposes for the method's own distance to rank; by default ten times
                `top`, at least 100 and at most 1000.

        Raises:
            DataError: embeddings of another model than the gallery's, or a distance that is no number.
            ConfigError: a condition that is wrong, or `top` below 1.
        """
        allowed = self._allowed(top, where)
        check_embedding(embedding, "the queries")
        embedding.check_same_model(self.embedding, "the queries", "the gallery")
        embedding.check_finite("a query")
        if embedding.vector.shape[1] != self.embedding.vector.shape[1]:
            widths = embedding.vector.shape[1], self.embedding.vector.shape[1]
            raise DataError("the queries are {} wide, the gallery {}; embed both with the same model".format(*widths))
        count = len(self) if allowed is None else len(allowed)
        wanted = min(1000, max(100, 10 * top)) if candidates is None else candidates
        wanted = max(wanted, top)
        if self._engine.is_exact or count <= max(wanted, FEW if allowed is not None else 0):
            return self._compare_all(embedding, min(top, count), allowed)
        ids = None if allowed is None else self.ids[allowed]
        return self._ranked(embedding, self._candidates(embedding.vector, wanted, ids), min(top, count))

    def check_search(self, top: int = 10, where: str | None = None) -> None:
        """Raise ConfigError for a `top` or a condition that `search` would refuse, before queries are embedded."""
        self._allowed(top, where)

    def _allowed(self, top: int, where: str | None) -> np.ndarray | None:
        """Places of the images that `where` holds for; None without a condition."""
        if not isinstance(top, Integral) or top < 1:
            raise ConfigError(f"top is {top!r}; it must be at least 1, a whole number")
        return None if where is None else np.flatnonzero(matching(where, self.columns, len(self)))

    def _candidates(self, queries: Tensor, wanted: int, allowed: np.ndarray | None) -> np.ndarray:
        """Ids [Q, at most `wanted`] near each of `queries`; -1 where there are no more.

        An index that processes share proposes images that another has added since this gallery was read; they are read
        then. What is in the index alone, e.g. of a writer that was killed, is passed over.
        """
        found = self._engine.candidates(queries, wanted, allowed)
        known = self._looked_up(found)[1] | (found < 0)
        if not known.all() and self.refresh():
            found = self._engine.candidates(queries, wanted, allowed)
        return np.where(self._looked_up(found)[1], found, -1)

    @torch.no_grad()
    def search_exactly(self, embedding: Embedding, top: int = 10) -> Hits:
        """The `top` nearest images of all, whatever the engine would propose; [Q, min(top, N)]."""
        return self._compare_all(embedding, min(top, len(self)), None)

    def _compare_all(self, queries: Embedding, top: int, allowed: np.ndarray | None) -> Hits:
        """Distances of every query to every image (that is `allowed`), a block at a time, the best kept."""
        rows = self._rows.embedding
        count = len(self) if allowed is None else len(allowed)
        best, places = torch.empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.long)
        for start in range(0, count if top and len(queries) else 0, BLOCK):
            block = np.arange(start, min(start + BLOCK, count)) if allowed is None else allowed[start : start + BLOCK]
            piece = rows[start : start + BLOCK] if allowed is None else rows[torch.from_numpy(block)]
            distances = numbers(self._distance(queries, full(piece)))
            near, at = distances.topk(min(top, len(block)), dim=1, largest=False)
            both = torch.cat([best, near], dim=1), torch.cat([places, torch.from_numpy(block)[at]], dim=1)
            best, order = both[0].topk(min(top, both[0].shape[1]), dim=1, largest=False)
            places = both[1].gather(1, order)
        return in_order(best.numpy(), self.ids[places.numpy()] if count else np.zeros(best.shape, np.int64))

    def _ranked(self, queries: Embedding, candidates: np.ndarray, top: int) -> Hits:
        """The method's own distance over each query's `candidates` [Q, C]."""
        ids, distances = np.full((len(queries), top), -1, np.int64), np.full((len(queries), top), np.inf, np.float32)
        for place, row in enumerate(candidates):
            chosen = row[row >= 0]
            near = full(self._rows.embedding[torch.from_numpy(self._places(chosen))])
            row_distances = numbers(self._distance(queries[place : place + 1], near))[0].numpy()
            order = np.lexsort((chosen, row_distances))[:top]
            ids[place, : len(order)], distances[place, : len(order)] = chosen[order], row_distances[order]
        return Hits(ids, distances)

    # ------------------------------------------------------------------ files

    def _header(self) -> dict:
        return {
            "engine": {"name": self.engine, **self._engine.options()},
            "metric": None if self._metric is None else self._metric.as_dict(),
            "quality": self.quality,
            "next": self._next,
            "index": self._index,
        }

    def save(self, path) -> None:
        """Write the gallery to `path`: one file if that ends in .safetensors, else a folder, which is faster to add to.

        It belongs to `path` from then on. The index of an engine lies beside the embeddings.
        """
        store = open_store(path)
        with store.writing():
            self._index = None
            moved = self._engine.attach(store.engine_folder)  # before the header, which says where the index is
            self._version = store.rewrite(self._rows, self._header())
            self._store = store
            if moved:
                self._rebuild()
            self._write_index()

    def _write_index(self) -> None:
        """Write the engine's file and note it in the header; an older one goes."""
        if not self._engine.ending:
            return
        assert self._store is not None  # who writes has saved or opened it
        before = self._index
        path = self._store.index_path(self._version + 1, self._engine.ending)
        write_atomically(path, self._engine.write)
        self._index = {"file": path.name, "checksum": checksum(path)}
        self._version = self._store.set_header(self._header())
        if before and before["file"] != path.name:
            path.with_name(before["file"]).unlink(missing_ok=True)

    @classmethod
    def load(cls, path, distance: Distance | None = None, token: str = "") -> Gallery:
        """The gallery at `path`, or a file of `Embedding.save` as one of the exact engine.

        An index that is missing or damaged is named in the log and built again from the embeddings.

        Args:
            distance: as for `build`; needed if the gallery was built with one.
            token: of a Milvus cluster.

        Raises:
            DataError: missing, or its embeddings are damaged (the file is named).
            ConfigError: the engine's package is not installed.
        """
        store = open_store(path)
        if not store.path.exists():
            raise DataError(f"{path}: there is no such gallery; make one with Gallery.build(...).save or occplug embed")
        rows, header = store.read()
        metric = Metric.of_dict(header["metric"]) if header.get("metric") else None
        options = {"name": "exact", **(header.get("engine") or {})}
        name = options.pop("name")
        if token:
            options["token"] = token
        made = cls(rows, build_engine(name, _by_angle(metric), options), name, distance, metric)
        made._store, made._version = store, header["version"]
        made._index, made.quality = header.get("index"), header.get("quality", {})
        made._next = max(made._next, header.get("next", 0))
        made._open_index()
        return made

    def _open_index(self) -> None:
        """Read the engine's file, or build it again if it is missing or damaged."""
        engine = self._engine
        if engine.is_exact:
            return
        assert self._store is not None  # as `load` set it
        engine.attach(self._store.engine_folder)
        if not engine.shared:
            self._catch_up(self._held())
        elif not self._is_whole():
            with self._store.writing():  # a writer that is at work makes the same difference, which ends with it
                self.refresh()
                self._catch_up(self._held())

    def _is_whole(self) -> bool:
        try:
            held = self._engine.read(cast("Store", self._store).engine_folder, self.embedding.vector, self.ids)
        except (OSError, RuntimeError, ValueError):
            return False
        return np.array_equal(np.sort(held), np.sort(self.ids))

    def _held(self) -> np.ndarray:
        """The ids that the engine's index holds, after it was read, or built again if missing or damaged."""
        assert self._store is not None  # as `load` set it
        path = self._store.engine_folder
        try:
            if self._engine.ending:
                index = self._index or {"file": "none", "checksum": -1}
                path = self._store.index_path(0, self._engine.ending).with_name(index["file"])
                if checksum(path) != index["checksum"]:
                    raise ValueError("its checksum is wrong")
            return self._engine.read(path, self.embedding.vector, self.ids)
        except (OSError, RuntimeError, ValueError) as error:
            _log.warning("%s: the index is damaged or missing (%s); it is built again from the embeddings", path, error)
            self._rebuild()
            return self.ids

    def _catch_up(self, held: np.ndarray) -> None:
        """Bring an index that holds the ids `held` to those of the gallery."""
        self._engine.remove(np.setdiff1d(held, self.ids))
        new = np.setdiff1d(self.ids, held)
        if len(new):
            self._engine.add(self.embedding.vector[torch.from_numpy(self._places(new))], new)


# ---------------------------------------------------------------------- helpers


def _metric_of(embedding: Embedding) -> Metric:
    known = embedding.origin.metric if embedding.origin is not None else {}
    return Metric.of_dict(known) if known else Metric.for_fields(embedding)


def _by_angle(metric: Metric | None) -> bool:
    """Whether engines compare unit vectors; a distance without a name is most likely of that kind."""
    return metric is None or metric.name != "squared_euclidean"


def _writing(store: Store | None):
    return contextlib.nullcontext() if store is None else store.writing()
