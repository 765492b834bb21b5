"""Milvus (https://milvus.io): `milvus-lite` in a file beside the gallery, or a cluster, by the same code."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from occplug.errors import ConfigError, DataError, first_line
from occplug.serving.engines.base import Engine, blocks, prepared

__all__ = ["Milvus"]

AT_ONCE = 2000  # rows of an insertion
DATABASE = "milvus.db"
TOKEN = "OCCPLUG_MILVUS_TOKEN"  # environment variable
SAMPLE = 32  # vectors that show whether a collection is this gallery's


class Milvus(Engine):
    """A collection of Milvus with our ids; the embeddings themselves stay with the gallery.

    Args:
        inner_product: as :class:`Engine`.
        uri: address of a cluster (`http://host:19530`), or a file NAME.db of milvus-lite that galleries share; empty:
            milvus-lite, in a file beside the gallery.
        token: user and password of a cluster, `user:password`; empty: as the environment variable OCCPLUG_MILVUS_TOKEN
            says. It is not kept with the gallery.
        collection: a name that is free there; empty: a new one. It is kept with the gallery.
        index: Milvus' index type; AUTOINDEX leaves the choice to it.
        effort: `ef` of a graph, `nprobe` of inverted lists. None: 256, tuned where labels are known.
    """

    OPTIONS: ClassVar[dict] = {"uri": "", "token": "", "collection": "", "index": "HNSW", "effort": None}
    tuned = "effort"
    shared = True

    def __init__(
        self,
        inner_product: bool,
        uri: str = "",
        token: str = "",
        collection: str = "",
        index: str = "HNSW",
        effort: int | None = None,
    ):
        super().__init__(inner_product)
        import pymilvus

        if not uri:
            import milvus_lite  # type: ignore[import-untyped]  # noqa: F401 - pymilvus would complain at the first call only
        self._milvus, self.uri, self.token = pymilvus, uri, token or os.environ.get(TOKEN, "")
        self.collection, self.index = collection or _free_name(), index
        self._is_ours = False  # whether the collection was made or checked by this object
        self.effort = 256 if effort is None else effort
        self._client: Any = None
        self._folder: Path | None = None
        self._temporary: tempfile.TemporaryDirectory | None = None

    def options(self) -> dict:
        """Keyword arguments that make this engine again, but for the token."""
        return {"uri": self.uri, "collection": self.collection, "index": self.index, "effort": self.effort}

    def attach(self, folder: Path) -> bool:
        """Let milvus-lite keep its file in `folder`; on a cluster, a gallery in two places has two collections."""
        if folder == self._folder:
            return False
        moved = self._folder is not None or not self.uri
        if not self.uri:
            self.close()
        elif moved:
            self.collection, self._is_ours = _free_name(), False
        self._folder = folder
        return moved

    def close(self) -> None:
        """Let go of the database, which milvus-lite gives to one process at a time."""
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def address(self) -> str:
        """Of the cluster, or the file of milvus-lite."""
        return self.uri or str(self._lite_folder() / DATABASE)

    @property
    def client(self):
        """The connection, made when it is first needed. Raises DataError if there is none to be had."""
        if self._client is None:
            try:
                self._client = self._milvus.MilvusClient(self.address, token=self.token)
            except Exception as error:  # pymilvus' own errors, grpc's, and a locked file of milvus-lite
                raise DataError(
                    f"{self.address}: Milvus does not answer ({first_line(error)}); is the address right, does it want "
                    f"a token ({TOKEN}=user:password), or does another process have this file open? milvus-lite serves "
                    "one process"
                ) from error
        return self._client

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Raise what Milvus refuses as DataError; the embeddings, which lie with the gallery, are as they were."""
        try:
            yield
        except self._milvus.MilvusException as error:
            raise DataError(
                f"{self.address}, collection {self.collection}: {first_line(error)}; the embeddings are whole, so the "
                "gallery can be built again: occplug gallery build G -o NEW --engine milvus"
            ) from error

    def _lite_folder(self) -> Path:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            return self._folder
        self._temporary = self._temporary or tempfile.TemporaryDirectory()
        return Path(self._temporary.name)

    def build(self, vectors: Tensor, ids: np.ndarray) -> None:
        """Make the collection again and fill it. Raises ConfigError if its name is another's there."""
        kinds = self._milvus.DataType
        self._clear()
        with self._asking():
            schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("id", kinds.INT64, is_primary=True)
            schema.add_field("vector", kinds.FLOAT_VECTOR, dim=vectors.shape[1])
            index = self.client.prepare_index_params()
            metric = "IP" if self.inner_product else "L2"
            index.add_index("vector", index_type=self.index, metric_type=metric, params=self._parameters(len(vectors)))
            self.client.create_collection(
                self.collection, schema=schema, index_params=index, consistency_level="Strong"
            )
        self._is_ours = True
        self._insert(vectors, ids, self.client.insert)

    def _clear(self) -> None:
        """Make room for the collection."""
        if not self.uri:  # all in this file is the gallery's, also what an earlier one left, and what is damaged
            self._drop_file()
            return
        with self._asking():
            if not self.client.has_collection(self.collection):
                return
            if not self._is_ours:
                raise ConfigError(
                    f"{self.address}: there is a collection {self.collection!r} already, which is not this gallery's; "
                    "leave collection= out to have a new one, or choose another name"
                )
            self.client.drop_collection(self.collection)

    def _drop_file(self) -> None:
        from milvus_lite.server_manager import server_manager_instance  # type: ignore[import-untyped]

        file = Path(self.address)
        if file.exists():
            self.client  # noqa: B018 - raises an error if another process has it open
            self.close()
            server_manager_instance.release_server(str(file))
            shutil.rmtree(file)

    def _parameters(self, count: int) -> dict:
        """Of building the index over `count` vectors."""
        if self.index.startswith("IVF"):
            return {"nlist": max(1, min(int(4 * math.sqrt(count)), 65_536))}  # Milvus' own would be 128
        return {"M": 32, "efConstruction": 200} if self.index.startswith("HNSW") else {}

    def add(self, vectors: Tensor, ids: np.ndarray) -> None:
        """Insert, some thousand at a time, in place of what has such an id already."""
        self._insert(vectors, ids, self.client.upsert)

    def _insert(self, vectors: Tensor, ids: np.ndarray, insert: Callable) -> None:
        with self._asking():
            for block, numbers in blocks(vectors, ids, AT_ONCE, self.inner_product):
                insert(self.collection, [{"id": int(i), "vector": v} for i, v in zip(numbers, block)])

    def remove(self, ids: np.ndarray) -> None:
        """Delete by id."""
        with self._asking():
            if len(ids):
                self.client.delete(self.collection, ids=[int(i) for i in ids])

    def candidates(self, queries: Tensor, count: int, allowed: np.ndarray | None = None) -> np.ndarray:
        """Ids near each query, best first."""
        result = np.full((len(queries), count), -1, np.int64)
        if not len(queries):
            return result
        parameters = {"ef": max(self.effort, count)} if self.index.startswith("HNSW") else {"nprobe": self.effort}
        with self._asking():
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

    def read(self, path: Path, vectors: Tensor, ids: np.ndarray) -> np.ndarray:
        """Look what the collection holds; returns the ids.

        Raises:
            ValueError: it is missing, or it is damaged in the gallery's own file.
            DataError: another gallery's vectors are in it, or Milvus refuses.
        """
        try:
            held = self._ids()
            is_other = self._is_other(vectors, ids, held)
        except self._milvus.MilvusException as error:
            if not self.uri:
                raise ValueError(f"{DATABASE}: {first_line(error)}") from error
            with self._asking():
                raise
        if is_other and not self.uri:
            raise ValueError(f"{DATABASE} holds other vectors")
        if is_other:
            raise DataError(
                f"{self.address}: the collection {self.collection!r} holds other vectors than this gallery; another "
                "gallery has it. Build this one again: occplug gallery build G -o NEW --engine milvus"
            )
        self._is_ours = True
        return held

    def _ids(self) -> np.ndarray:
        """All ids of the collection. Raises ValueError if there is no such collection."""
        client, name = self.client, self.collection
        if not client.has_collection(name):
            raise ValueError(f"{self.address} has no collection {name!r}")
        client.load_collection(name)
        pages = client.query_iterator(
            name, batch_size=AT_ONCE, filter="id >= 0", output_fields=["id"], consistency_level="Strong"
        )
        held = []
        while page := pages.next():
            held += [row["id"] for row in page]
        pages.close()
        return np.array(held, np.int64)

    def _is_other(self, vectors: Tensor, ids: np.ndarray, held: np.ndarray) -> bool:
        """Whether the collection has no image of the gallery, or another vector for one: ids count from 0 in all."""
        places = np.flatnonzero(np.isin(ids, held))
        if not len(places):
            return bool(len(ids) and len(held))
        places = places[np.linspace(0, len(places) - 1, min(SAMPLE, len(places))).astype(int)]
        ours = prepared(vectors[torch.from_numpy(places)], self.inner_product)
        strong = {"consistency_level": "Strong"}
        rows = self.client.get(self.collection, ids=ids[places].tolist(), output_fields=["id", "vector"], **strong)
        there = {row["id"]: np.asarray(row["vector"], np.float32) for row in rows}
        pairs = [(there[i], vector) for i, vector in zip(ids[places].tolist(), ours) if i in there]
        return not all(len(a) == len(b) and np.abs(a - b).max() <= 1e-3 * np.abs(b).max() for a, b in pairs)


def _free_name() -> str:
    return f"occplug_{uuid.uuid4().hex}"
