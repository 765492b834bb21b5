"""faiss (https://github.com/facebookresearch/faiss): graphs and inverted lists in memory, on one machine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from occplug.errors import ConfigError
from occplug.serving.engines.base import Engine, blocks, prepared

__all__ = ["Faiss"]

MANY = 2_000_000  # from so many vectors on, inverted lists with 1-bit codes in place of a graph
PER_LIST = 39  # vectors that k-means wants per list
SAMPLE = 400_000  # vectors that an index is trained on
AT_ONCE = 65536  # vectors of an insertion


def last_line(error: Exception) -> str:
    """Where faiss' own messages say what is wrong."""
    return (str(error).splitlines() or [""])[-1]


class Faiss(Engine):
    """An index of faiss with our ids.

    Args:
        inner_product: as :class:`Engine`.
        index: "auto"; "hnsw" (a graph over 8-bit codes: HNSW32,SQ8), "ivf" (inverted lists of 8-bit codes), "rabitq"
            (inverted lists of 1-bit codes), or a text for faiss' index_factory.
        effort: how much of the index a query looks at: `efSearch` of a graph, `nprobe` of inverted lists. Occluded
            queries need far more than recall on clean ones suggests. None: 256, tuned where labels are known.
    """

    OPTIONS: ClassVar[dict] = {"index": "auto", "effort": None}
    tuned = "effort"
    ending = ".faiss"

    def __init__(self, inner_product: bool, index: str = "auto", effort: int | None = None):
        super().__init__(inner_product)
        import faiss

        self._faiss: Any = faiss  # its types know a part of what SWIG made
        self.index, self.effort = index, 256 if effort is None else effort
        self._made: Any = None
        self._built, self._stale = 0, False
        self._gone: set[int] = set()

    def options(self) -> dict:
        """Keyword arguments that make this engine again."""
        return {"index": self.index, "effort": self.effort}

    def _text(self, count: int) -> str:
        kind = self.index if self.index != "auto" else "hnsw" if count < MANY else "rabitq"
        lists = max(1, min(int(4 * math.sqrt(count)), count // PER_LIST))
        return {"hnsw": "HNSW32,SQ8", "ivf": f"IVF{lists},SQ8", "rabitq": f"IVF{lists},RaBitQ"}.get(kind, kind)

    def build(self, vectors: Tensor, ids: np.ndarray) -> None:
        """Train on a sample of the vectors, and fill the index."""
        faiss, text = self._faiss, self._text(len(vectors))
        metric = faiss.METRIC_INNER_PRODUCT if self.inner_product else faiss.METRIC_L2
        try:
            inner = faiss.index_factory(vectors.shape[1], text, metric)
        except RuntimeError as error:
            raise ConfigError(
                f"faiss has no index {self.index!r} ({last_line(error)}); use auto, hnsw, ivf or rabitq"
            ) from error
        if len(vectors):
            self._train(inner, vectors)
        self._made = faiss.IndexIDMap(inner)
        self._built, self._gone, self._stale = len(vectors), set(), False
        if len(vectors):
            self.add(vectors, ids)

    def _train(self, inner, vectors: Tensor) -> None:
        try:
            inner.train(prepared(vectors[:: max(1, len(vectors) // SAMPLE)], self.inner_product))
        except RuntimeError as error:
            raise ConfigError(
                f"faiss cannot train the index {self.index!r} on {len(vectors)} vectors ({last_line(error)}); "
                "use auto or hnsw, or more vectors"
            ) from error

    def add(self, vectors: Tensor, ids: np.ndarray) -> None:
        """Add to the index as it was trained; one that was empty is trained now."""
        if not self._made.is_trained:
            self.build(vectors, ids)
            return
        self._stale |= not self._gone.isdisjoint(ids.tolist())  # an id that comes back has another vector
        for block, numbers in blocks(vectors, ids, AT_ONCE, self.inner_product):
            self._made.add_with_ids(block, numbers)

    def remove(self, ids: np.ndarray) -> None:
        """Graphs cannot forget, so removed ids are left out of answers until the index is built again."""
        self._gone.update(np.asarray(ids).tolist())

    @property
    def wants_rebuild(self) -> bool:
        """Codes were trained on half of the vectors or less, or a quarter of them are gone."""
        grown, shrunk = self._made.ntotal > 2 * max(self._built, 100), 4 * len(self._gone) > self._made.ntotal
        return self._stale or grown or shrunk

    def candidates(self, queries: Tensor, count: int, allowed: np.ndarray | None = None) -> np.ndarray:
        """Ids near each query, best first."""
        selector = None
        if allowed is not None:
            selector = self._faiss.IDSelectorBatch(np.ascontiguousarray(allowed, dtype=np.int64))
        elif self._gone:
            gone = self._faiss.IDSelectorBatch(np.fromiter(self._gone, np.int64))
            selector = self._faiss.IDSelectorNot(gone)
        parameters = self._parameters(selector, count)
        vectors = prepared(queries, self.inner_product)
        return self._made.search(vectors, min(count, self._made.ntotal), params=parameters)[1]

    def _parameters(self, selector, count: int):
        # an IDMap translates the selector of our ids for the index inside
        inner = self._faiss.downcast_index(self._made.index)
        if isinstance(inner, self._faiss.IndexHNSW):
            return self._faiss.SearchParametersHNSW(sel=selector, efSearch=max(self.effort, count))
        if isinstance(inner, self._faiss.IndexIVF):
            return self._faiss.SearchParametersIVF(sel=selector, nprobe=min(self.effort, inner.nlist))
        return self._faiss.SearchParameters(sel=selector)

    def write(self, path: Path) -> None:
        """Keep the index in the file `path`."""
        self._faiss.write_index(self._made, str(path))

    def read(self, path: Path, vectors: Tensor, ids: np.ndarray) -> np.ndarray:
        """Read it again; returns the ids it holds."""
        made = self._faiss.read_index(str(path))
        self._made, self._built, self._gone, self._stale = made, made.ntotal, set(), False
        return self._faiss.vector_to_array(made.id_map)
