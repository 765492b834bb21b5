"""What comes into a gallery: its ids and metadata checked, and copies of what is there already told."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from occplug.embedding import Embedding
from occplug.errors import DataError
from occplug.serving.metadata import check_name
from occplug.serving.store import Rows

__all__ = ["check_layout", "new_rows", "tell_copies"]

_log = logging.getLogger(__name__)


def new_rows(embedding: Embedding, ids, metadata: Mapping[str, Sequence] | None, first: int) -> Rows:
    """`embedding` with ids (from `first` on, if not given) and metadata, checked.

    Raises:
        DataError: other numbers of ids or metadata than images, ids that are there twice, a name or value that metadata
            cannot have, or an embedding that is not finite.
    """
    count = len(embedding)
    embedding.check_finite("an image for the gallery")
    numbers = np.arange(first, first + count) if ids is None else np.asarray(ids)
    if numbers.shape != (count,) or (count and numbers.dtype.kind not in "iu"):
        raise DataError(
            f"ids are {count} whole numbers, one an image; got {numbers.dtype} of shape {list(numbers.shape)}"
        )
    if len(np.unique(numbers)) < count or (count and numbers.min() < 0):
        raise DataError("ids must be 0 or more, each of them once")
    columns = {name: [_plain(value) for value in values] for name, values in (metadata or {}).items()}
    for name, values in columns.items():
        check_name(name)
        if len(values) != count:
            raise DataError(f"metadata {name!r} has {len(values)} values for {count} images")
    if "path" not in columns and embedding.paths:
        columns["path"] = list(embedding.paths)
    if embedding.origin is not None:
        embedding = replace(embedding, origin=replace(embedding.origin, paths=(), skipped={}))
    return Rows(embedding.to("cpu"), torch.from_numpy(numbers.astype(np.int64)), columns)


def check_layout(gallery: Embedding, new: Embedding) -> None:
    """Raise DataError if `new` embeddings hold other fields than those of the gallery, or of other shapes."""
    if gallery.layout() != new.layout():
        fields = f"{_told(new)}, and the gallery {_told(gallery)}"
        raise DataError(f"the embeddings to be added hold {fields}; embed them with the gallery's model")


def _told(embedding: Embedding) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in embedding.layout())


def _plain(value):
    """A number or text without numpy or torch around it. Raises DataError for anything else."""
    value = value.item() if hasattr(value, "item") else value
    value = str(value) if isinstance(value, Path) else value
    if value is not None and not isinstance(value, (int, float, str, bool)):
        raise DataError(f"metadata are numbers, texts or None, not {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(
            f"metadata hold {value}, which no condition and no JSON can say; give None for what is not known"
        )
    return value


def tell_copies(paths: Sequence, before: Sequence = ()) -> None:
    """Say in the log which of the images `paths` are there `before` or twice: hits hold each of them."""
    known, copies = {path for path in before if path is not None}, []
    for path in paths:
        if path in known:
            copies.append(path)
        elif path is not None:
            known.add(path)
    if copies:
        _log.warning(
            "%d of the images are there already, e.g. %s; each is found as often as it is there, until it is removed",
            len(copies),
            copies[0],
        )
