"""Milvus (https://milvus.io): `milvus-lite` in a file beside the gallery, or a cluster, by the same code."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from occplug.errors import DataError, first_line
from occplug.serving.engines.base import Engine, blocks, prepared

__all__ = ["Milvus"]

AT_ONCE = 2000  # rows of an insertion
DATABASE = "milvus.db"


class Milvus(Engine):
    """A collection of Milvus with our ids; the embeddings themselves stay with the gallery.

    Args:
        inner_product: as :class:`Engine`.
        uri: address of a cluster (`http://host:19530`); empty: milvus-lite, in a file beside the gallery.
        token: user and password of a cluster, `user:password`. It is not kept with the gallery.
        collection: its name there.
        index: Milvus' index type; AUTOINDEX leaves the choice to it.
        effort: `ef` of a graph, `nprobe` of inverted lists. None: 256, tuned where labels are known.
    """

    OPTIONS: ClassVar[dict] = {"uri": "", "token": "", "collection": "occplug", "index": "HNSW", "effort": None}
    tuned = "effort"

    def __init__(
        self,
        inner_product: bool,
        uri: str = "",
        token: str = "",
        collection: str = "occplug",
        index: str = "HNSW",
        effort: int | None = None,
    ):
        super().__init__(inner_product)
        import pymilvus

        if not uri:
            import milvus_lite  # type: ignore[import-untyped]  # noqa: F401 - pymilvus would complain at the first call only
        self._milvus, self.uri, self.token = pymilvus, uri, token
        self.collection, self.index = collection, index
        self.effort = 256 if effort is None else int(effort)
        self._client: Any = None
        self._folder: Path | None = None
        self._temporary: tempfile.TemporaryDirectory | None = None

    def options(self) -> dict:
        """Keyword arguments that make this engine again, but for the token."""
        return {"uri": self.uri, "collection": self.collection, "index": self.index, "effort": self.effort}

    def attach(self, folder: Path | None) -> None:
        """Let milvus-lite keep its file in `folder`."""
        if not self.uri and folder != self._folder:
            self.close()
            self._folder = folder

    def close(self) -> None:
        """Let go of the database, which milvus-lite gives to one process at a time."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def client(self):
        """The connection, made when it is first needed. Raises DataError if there is none to be had."""
        if self._client is None:
            address = self.uri or str(self._lite_folder() / DATABASE)
            try:
                self._client = self._milvus.MilvusClient(address, token=self.token)
            except Exception as error:  # pymilvus' own errors, grpc's, and a locked or damaged file of milvus-lite
                reason = first_line(error)
                raise DataError(
                    f"{address}: Milvus does not answer ({reason}); is the address right, or does another process have "
                    "this file open? milvus-lite serves one process"
                ) from error
        return self._client

    def _lite_folder(self) -> Path:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            return self._folder
        self._temporary = self._temporary or tempfile.TemporaryDirectory()
        return Path(self._temporary.name)

    def build(self, vectors: Tensor, ids: np.ndarray) -> None:
        """Make the collection again and fill it."""
        kinds, client = self._milvus.DataType, self.client
        if client.has_collection(self.collection):
            client.drop_collection(self.collection)
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("vector", kinds.FLOAT_VECTOR, dim=vectors.shape[1])
        index = client.prepare_index_params()
        metric = "IP" if self.inner_product else "L2"
        index.add_index("vector", index_type=self.index, metric_type=metric, params=self._parameters(len(vectors)))
        client.create_collection(self.collection, schema=schema, index_params=index, consistency_level="Strong")
        self.add(vectors, ids)

    def _parameters(self, count: int) -> dict:
        """Of building the index over `count` vectors."""
        if self.index.startswith("IVF"):
            return {"nlist": max(1, min(int(4 * math.sqrt(count)), 65_536))}  # Milvus' own would be 128
        return {"M": 32, "efConstruction": 200} if self.index.startswith("HNSW") else {}

    def add(self, vectors: Tensor, ids: np.ndarray) -> None:
        """Insert, some thousand at a time."""
        for block, numbers in blocks(vectors, ids, AT_ONCE, self.inner_product):
            self.client.insert(self.collection, [{"id": int(i), "vector": v} for i, v in zip(numbers, block)])

    def remove(self, ids: np.ndarray) -> None:
        """Delete by id."""
        if len(ids):
            self.client.delete(self.collection, ids=[int(i) for i in ids])

    def candidates(self, queries: Tensor, count: int, allowed: np.ndarray | None = None) -> np.ndarray:
        """Ids near each query, best first."""
        result = np.full((len(queries), count), -1, np.int64)
        if not len(queries):
            return result
        parameters = {"ef": max(self.effort, count)} if self.index.startswith("HNSW") else {"nprobe": self.effort}
        answer = self.client.search(
            self.collection,
            data=prepared(queries, self.inner_product).tolist(),
            limit=count,
            filter="" if allowed is None else f"id in {np.asarray(allowed).tolist()}",
            output_fields=["id"],  # milvus-lite sends the vectors along otherwise
            search_params={"params": parameters},
            consistency_level="Strong",
        )
        for row, hits in zip(result, answer):
            row[: len(hits)] = [hit["id"] for hit in hits]
        return result

    def read(self, path: Path, ids: np.ndarray) -> np.ndarray:
        """Look what the collection holds; returns the ids."""
        client, name = self.client, self.collection
        if not client.has_collection(name):
            raise ValueError(f"there is no collection {name!r}")
        client.load_collection(name)
        strong = {"consistency_level": "Strong"}
        count = client.query(name, filter="id >= 0", output_fields=["count(*)"], **strong)[0]["count(*)"]
        if count == len(ids):
            return ids
        pages = client.query_iterator(name, batch_size=AT_ONCE, filter="id >= 0", output_fields=["id"], **strong)
        held = []
        while page := pages.next():
            held += [row["id"] for row in page]
        pages.close()
        return np.array(held, np.int64)
