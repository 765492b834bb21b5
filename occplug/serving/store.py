"""How a gallery lies on disk: segments that never change, and a manifest that is replaced as a whole.

    NAME/gallery.json              what is there: segments with their sizes, removed ids, engine, distance
    NAME/segment-000001.safetensors   embeddings, ids and metadata, as `Embedding.save` writes them
    NAME/index-000004.*            what a search engine built of them; can always be made again

or all of it in one file NAME.safetensors, which every change writes again. A reader holds what the manifest named when
it was read, whatever is added meanwhile; a writer holds a lock. A change is on the disk before it is acknowledged.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import filelock
import torch

from occplug.embedding import Embedding, Origin, from_bytes, load_rows, read_header, save_rows, to_bytes
from occplug.errors import DataError
from occplug.serving.stacked import stacked, without
from occplug.utils.files import user_path, write_atomically
from occplug.utils.texts import read_json

__all__ = ["FileStore", "FolderStore", "Rows", "Store", "open_store"]

FORMAT = "occplug-gallery-1"
MANIFEST = "gallery.json"
OWN_FILES = r"segment-|index-|milvus\.db"  # that a writer may have left which was killed before the manifest
SEGMENTS = 64  # small ones are put together when there are more
WAIT = 30.0  # seconds that a writer waits for another


def _is_count(value) -> bool:
    return type(value) is int and value >= 0


def _are_segments(value) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("file"), str)
        and re.fullmatch(r"segment-\d{6,}\.safetensors", one["file"]) is not None  # in the gallery's folder
        and _is_count(one.get("rows"))
        and _is_count(one.get("bytes"))
        for one in value
    )


def _is_index(value) -> bool:
    if value is None:
        return True
    named = isinstance(value, dict) and isinstance(value.get("file"), str) and _is_count(value.get("checksum"))
    return named and re.fullmatch(r"[^/\\]*index-\d{6,}[^/\\]*", value["file"]) is not None


def _is_dict(value) -> bool:
    return isinstance(value, dict)


# part -> (what it must be, the check); a file of embeddings alone has none of the header's
_MANIFEST: dict[str, tuple[str, Callable[[object], bool]]] = {
    "version": ("a whole number of at least 0", _is_count),
    "segments": ("a list of segment files of this folder with rows and bytes", _are_segments),
    "removed": (
        "a list of ids",
        lambda value: isinstance(value, list) and all(_is_count(one) and one < 2**63 for one in value),
    ),
    "header": ("an object", _is_dict),
}
_HEADER: dict[str, tuple[str, Callable[[object], bool]]] = {
    "version": _MANIFEST["version"],
    "engine": (
        "an object with a name",
        lambda value: value is None or (isinstance(value, dict) and isinstance(value.get("name"), str)),
    ),
    "metric": ("an object", lambda value: value is None or _is_dict(value)),
    "quality": ("an object", _is_dict),
    "next": ("a whole number of at least 0", _is_count),
    "index": ("an index file beside the embeddings with its checksum", _is_index),
}


def _check(content: dict, kinds: dict[str, tuple[str, Callable[[object], bool]]], file: Path, whole: bool) -> None:
    """Raise DataError for a part of `content` that is not of its kind or, with `whole`, missing; names it."""
    for part, (kind, holds) in kinds.items():
        if part not in content and not whole:
            continue
        if part not in content or not holds(content[part]):
            raise DataError(
                f"{file}: damaged or changed: {part} must be {kind}; restore it from a copy, or build the gallery again"
            )


@dataclass
class Rows:
    """N rows of a gallery: embeddings, their ids [N] int64 and their metadata (name -> N values)."""

    embedding: Embedding
    ids: torch.Tensor
    columns: dict[str, list] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def chosen(self, index) -> Rows:
        """Some rows, by a list or tensor of places or a boolean tensor."""
        places = torch.arange(len(self))[index].tolist()
        columns = {name: [values[place] for place in places] for name, values in self.columns.items()}
        return Rows(self.embedding[index], self.ids[index], columns)

    def without(self, gone: torch.Tensor) -> Rows:
        """What is left without the rows for which `gone` [N] is True; many rows are not copied."""
        columns = {
            name: [value for value, is_gone in zip(values, gone.tolist()) if not is_gone]
            for name, values in self.columns.items()
        }
        return Rows(without(self.embedding, gone), self.ids[~gone], columns)

    @staticmethod
    def cat(items: list[Rows]) -> Rows:
        """All rows in order; metadata that some do not have is None there."""
        if len(items) == 1:
            return items[0]
        names = list(dict.fromkeys(name for item in items for name in item.columns))
        columns = {n: [v for item in items for v in item.columns.get(n, [None] * len(item))] for n in names}
        return Rows(stacked([item.embedding for item in items]), torch.cat([item.ids for item in items]), columns)


def _save(path: Path, rows: Rows, header: dict) -> None:
    columns = dict(rows.columns)
    if all(isinstance(value, str) for value in columns.get("path", [None])):  # where Embedding.load looks for them
        paths = tuple(columns.pop("path"))
        whole = rows.embedding[:]
        rows = Rows(replace(whole, origin=replace(whole.origin or Origin(), paths=paths)), rows.ids)
    save_rows(path, rows.embedding, {"ids": rows.ids.contiguous(), "columns": to_bytes(columns)}, header)
    _sync(path)


def _load(path: Path) -> tuple[Rows, dict]:
    embedding, tensors, header = load_rows(path)
    ids = tensors.get("ids", torch.arange(len(embedding)))
    columns = from_bytes(tensors["columns"]) if "columns" in tensors else {}
    if embedding.paths:
        columns = {"path": list(embedding.paths), **columns}
    if len(ids) != len(embedding) or any(len(values) != len(ids) for values in columns.values()):
        raise DataError(f"{path}: damaged: {len(embedding)} embeddings, {len(ids)} ids")
    if embedding.origin is not None:
        embedding = replace(embedding, origin=replace(embedding.origin, paths=(), skipped={}))
    return Rows(embedding, ids, columns), header


def _sync(path: Path) -> None:
    """Wait until `path` and its name are on the disk."""
    for place in (path, path.parent):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


class Store:
    """What both forms have in common.

    Args:
        path: of the gallery.
    """

    def __init__(self, path: Path):
        self.path = path

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock of the one writer. Raises DataError if another keeps it for half a minute."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(f"{self.path}.lock", timeout=WAIT)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise DataError(
                f"{self.path}: another process has been writing for {WAIT:.0f} s; try again later"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def index_path(self, number: int, ending: str) -> Path:
        """Where an engine's file goes."""
        raise TypeError(f"{type(self).__name__} does not say where an index lies")

    @property
    def engine_folder(self) -> Path:
        """Where an engine keeps itself that writes no file of one name."""
        return self.path


class FolderStore(Store):
    """A gallery in a folder; adding writes the new rows alone."""

    def is_taken(self) -> bool:
        """Whether a gallery is there. Raises DataError for a folder of other files."""
        if (self.path / MANIFEST).exists():
            return True
        others = [file.name for file in self.path.glob("*") if re.match(OWN_FILES, file.name) is None]
        if others:
            raise DataError(
                f"{self.path}: this folder holds other files ({min(others)}) and no gallery; name a folder that is not "
                "there yet"
            )
        return False

    def version(self) -> int:
        """Number of the last change."""
        return self._manifest()["version"]

    def _manifest(self) -> dict:
        file = self.path / MANIFEST
        try:
            content = read_json(file)
        except FileNotFoundError:
            raise DataError(f"{self.path}: this folder holds no gallery ({MANIFEST} is missing)") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: damaged ({error}); restore it, or build the gallery again") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise DataError(f"{file}: not a gallery of this version of occplug")
        _check(content, _MANIFEST, file, whole=True)
        _check(content["header"], _HEADER, file, whole=False)
        return content

    def read(self) -> tuple[Rows, dict]:
        """All rows but the removed ones, and the header. Raises DataError; a damaged segment is named."""
        for attempt in range(5):
            manifest = self._manifest()
            try:
                parts = [self._segment(entry) for entry in manifest["segments"]]
                break
            except (FileNotFoundError, DataError):
                missing = [e["file"] for e in manifest["segments"] if not (self.path / e["file"]).is_file()]
                if not missing:
                    raise
                # unless a writer has put segments together since the manifest was read
                if attempt == 4 or self._manifest()["version"] == manifest["version"]:
                    raise DataError(
                        f"{self.path}: {', '.join(missing)} is missing; restore it, or build the gallery again"
                    ) from None
        rows = Rows.cat(parts)
        if manifest["removed"]:
            rows = rows.without(torch.isin(rows.ids, torch.tensor(manifest["removed"])))
        return rows, manifest["header"] | {"version": manifest["version"]}

    def _segment(self, entry: dict) -> Rows:
        file = self.path / entry["file"]
        if file.stat().st_size != entry["bytes"]:
            raise DataError(f"{file}: damaged (cut off); restore it from a copy, or build the gallery again")
        return _load(file)[0]

    def _commit(self, manifest: dict) -> int:
        manifest["version"] += 1
        text = json.dumps(manifest)
        write_atomically(self.path / MANIFEST, lambda temporary: _write_synced(temporary, text))
        _sync(self.path / MANIFEST)
        return manifest["version"]

    def append(self, rows: Rows, header: dict) -> int:
        """Add `rows`; returns the new version. They are on the disk then."""
        manifest = self._manifest()
        number, before = manifest["version"] + 1, manifest["segments"]
        if len(before) >= SEGMENTS:
            kept = max(before, key=lambda entry: entry["rows"])
            merged = [entry for entry in before if entry is not kept]
            rows = Rows.cat([*(self._segment(entry) for entry in merged), rows])
            manifest["segments"] = [kept]
        else:
            merged = []
        manifest["segments"].append(self._written(rows, number))
        manifest["header"] = header
        version = self._commit(manifest)
        self._drop(merged)
        return version

    def _drop(self, segments: list[dict]) -> None:
        for entry in segments:
            (self.path / entry["file"]).unlink(missing_ok=True)

    def _written(self, rows: Rows, number: int) -> dict:
        file = self.path / f"segment-{number:06d}.safetensors"
        _save(file, rows, {})
        return {"file": file.name, "rows": len(rows), "bytes": file.stat().st_size}

    def remove(self, ids: list[int], header: dict) -> int:
        """Note that `ids` are gone; returns the new version."""
        manifest = self._manifest()
        manifest["removed"] = sorted({*manifest["removed"], *ids})
        manifest["header"] = header
        return self._commit(manifest)

    def rewrite(self, rows: Rows, header: dict) -> int:
        """Make `rows` all there is, in one segment; returns the new version. Raises DataError as `is_taken`."""
        self.is_taken()
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            before = self._manifest()
        except DataError:
            before = {"version": 0, "segments": []}
        number = before["version"] + 1
        segments = [self._written(rows, number)]
        content = {"format": FORMAT, "version": number - 1, "segments": segments, "removed": [], "header": header}
        version = self._commit(content)
        self._drop(before["segments"])
        return version

    def set_header(self, header: dict) -> int:
        """Change the header alone."""
        manifest = self._manifest()
        manifest["header"] = header
        return self._commit(manifest)

    def index_path(self, number: int, ending: str) -> Path:
        """Where an engine's file goes."""
        return self.path / f"index-{number:06d}{ending}"


def _write_synced(path: Path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


class FileStore(Store):
    """A gallery in one file, which every change writes again."""

    def is_taken(self) -> bool:
        """Whether a gallery is there. Raises DataError for a folder, and for a file of another kind."""
        if self.path.is_dir():
            raise DataError(f"{self.path}: this is a folder; name a file, or a folder without .safetensors")
        if self.path.exists() and self.path.suffix != ".safetensors":
            self.version()
        return self.path.exists()

    def version(self) -> int:
        """Number of the last change."""
        return self._checked(read_header(self.path)).get("version", 0)

    def read(self) -> tuple[Rows, dict]:
        """All rows and the header; a file of `Embedding.save` is a gallery, too."""
        rows, header = _load(self.path)
        return rows, {"version": 0, **self._checked(header)}

    def _checked(self, header) -> dict:
        _check({"header": header}, {"header": _MANIFEST["header"]}, self.path, whole=True)
        _check(header, _HEADER, self.path, whole=False)
        return header

    def append(self, rows: Rows, header: dict) -> int:
        """Add `rows`; returns the new version. They are on the disk then."""
        return self.rewrite(Rows.cat([self.read()[0], rows]), header)

    def remove(self, ids: list[int], header: dict) -> int:
        """Drop `ids`; returns the new version."""
        rows = self.read()[0]
        return self.rewrite(rows.without(torch.isin(rows.ids, torch.tensor(ids))), header)

    def rewrite(self, rows: Rows, header: dict) -> int:
        """Make `rows` all there is; returns the new version. Raises DataError as `is_taken`."""
        self.is_taken()
        try:
            before = self.version() if self.path.exists() else 0
        except DataError:  # whatever was there is replaced
            before = 0
        _save(self.path, rows, {**header, "version": before + 1})
        return before + 1

    def set_header(self, header: dict) -> int:
        """Change the header alone."""
        return self.rewrite(self.read()[0], header)

    @property
    def engine_folder(self) -> Path:
        """A folder beside the file."""
        return self.path.with_name(f"{self.path.name}.index")

    def index_path(self, number: int, ending: str) -> Path:
        """Where an engine's file goes."""
        return self.path.with_name(f"{self.path.name}.index-{number:06d}{ending}")


def open_store(path) -> FolderStore | FileStore:
    """The store for `path`: one file if it ends in .safetensors or is a file, else a folder."""
    path = user_path(path)
    return FileStore(path) if path.suffix == ".safetensors" or path.is_file() else FolderStore(path)
