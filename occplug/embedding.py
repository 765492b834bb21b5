"""What a method says about an image: the one type that travels from a model to the evaluation."""

from __future__ import annotations

import json
import logging
import operator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from occplug.errors import DataError
from occplug.utils.files import read_whole, user_path, write_atomically
from occplug.utils.integrity import is_intact, save_checked
from occplug.utils.logs import warn_once
from occplug.utils.texts import parse_json

__all__ = ["Embedding", "Origin"]

_log = logging.getLogger(__name__)
FIELDS = ("vector", "parts", "visibility", "mask")  # the tensors, in the order of `pack`
FORMAT = "occplug-embedding-1"
CHECKED = 16_384  # rows looked at together: what a check needs beside a gallery of half precision does not grow with it


@dataclass(frozen=True)
class Origin:
    """Which images embeddings are of, and which model made them.

    Args:
        paths: [B] where each image came from: a file, or a text such as "frame[2]".
        model: fingerprint of the weights; embeddings of two models are never compared. Empty: not known.
        config: hash of the settings of that model that have a part in embeddings.
        preprocessing: size, mean, std, interpolation and flip, as plain values.
        metric: `occplug.evaluation.Metric.as_dict` of the method's distance, or empty.
        weights: where those weights were read from, as `occplug.load` takes it.
        skipped: image -> why it could not be read, with `on_error="skip"`.
        settings: keys of the config that change what that model computes in tests -> value; empty: not known.
    """

    paths: tuple[str, ...] = ()
    model: str = ""
    config: str = ""
    preprocessing: dict = field(default_factory=dict)
    metric: dict = field(default_factory=dict)
    weights: str = ""
    skipped: dict[str, str] = field(default_factory=dict)
    settings: dict = field(default_factory=dict)

    def _rows(self, index, count: int) -> Origin:
        """The same origin of some of `count` images, chosen by whatever indexes an array."""
        if not self.paths:
            return self
        if isinstance(index, Tensor):
            index = index.cpu().numpy()
        return replace(self, paths=tuple(self.paths[place] for place in np.arange(count)[index]))

    def header(self) -> dict:
        """All but the paths, as plain values."""
        names = ("model", "config", "preprocessing", "metric", "weights", "skipped", "settings")
        return {name: getattr(self, name) for name in names}


@dataclass
class Embedding:
    """Embeddings of B images; `len()`, slicing and `.to()` act on every field that is set.

    Args:
        vector: [B, D] float32, what plain distances compare.
        parts: [B, P, d] float32, one vector per body part, or None.
        visibility: [B, P] in [0, 1], how much of each part is visible, or None.
        mask: [B, D or d] in [0, 1], a per-channel mask, or None.
        origin: which images and which model they are of, or None if nobody said.

    Raises:
        ValueError: a field whose first axis is not B long.
    """

    vector: Tensor
    parts: Tensor | None = None
    visibility: Tensor | None = None
    mask: Tensor | None = None
    origin: Origin | None = None

    def __post_init__(self):
        if self.vector.ndim != 2:
            raise ValueError(f"vector is [B, D], got shape {tuple(self.vector.shape)}")
        for name, value in self._set_fields().items():
            if value.shape[0] != self.vector.shape[0]:  # len() would fix the batch size where a model is exported
                raise ValueError(f"{name} has {value.shape[0]} rows, vector has {self.vector.shape[0]}")

    def _set_fields(self) -> dict[str, Tensor]:
        values = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in values.items() if value is not None}

    def _map(self, function, origin: Origin | None = None) -> Embedding:
        return Embedding(**{name: function(value) for name, value in self._set_fields().items()}, origin=origin)

    @property
    def paths(self) -> tuple[str, ...]:
        """Where each image came from; empty if nobody said."""
        return () if self.origin is None else self.origin.paths

    @property
    def skipped(self) -> dict[str, str]:
        """Images that could not be read, with the reasons (`on_error="skip"`)."""
        return {} if self.origin is None else self.origin.skipped

    def __len__(self) -> int:
        return len(self.vector)

    def __getitem__(self, index) -> Embedding:
        """Rows by slice, list, boolean or integer tensor; one integer keeps the batch axis."""
        if not isinstance(index, slice) and np.ndim(index) == 0:
            index = [operator.index(index)]
        origin = None if self.origin is None else self.origin._rows(index, len(self))
        return self._map(lambda value: value[index], origin)

    def to(self, *args, **kwargs) -> Embedding:
        """The same embeddings on another device or in another type."""
        return self._map(lambda value: value.to(*args, **kwargs), self.origin)

    @staticmethod
    def cat(items: list[Embedding]) -> Embedding:
        """One embedding from several, in order.

        Raises:
            ValueError: the list is empty or the fields set differ.
            DataError: they are of different models.
        """
        if not items:
            raise ValueError("no embeddings to put together")
        origin = _joined_origin(items)
        names = list(items[0]._set_fields())
        if any(set(item._set_fields()) != set(names) for item in items):
            raise ValueError(f"embeddings differ in what they carry: {[sorted(i._set_fields()) for i in items]}")
        joined = {name: torch.cat([getattr(item, name)[:] for item in items]) for name in names}
        return Embedding(**joined, origin=origin)

    def check_same_model(
        self, other: Embedding, what: str = "these embeddings", others: str = "the others", flip: bool = False
    ) -> None:
        """Raise DataError if it is known that `other` is of another model or settings, or of images prepared otherwise.

        Args:
            flip: whether averaging with mirror images has to be alike, too, as in one gallery; otherwise a warning says
                that it is not.
        """
        check_embedding(other, others)
        one, two = self.origin or Origin(), other.origin or Origin()
        distances = [{f"distance {key}": value for key, value in each.metric.items()} for each in (one, two)]
        settings = _differing(one.settings, two.settings) or _differing(*distances)
        same_file = one.weights and one.weights == two.weights  # of which settings may leave out tensors
        if one.model and two.model and one.model != two.model and not (same_file and settings):
            raise DataError(
                f"{what} are of the model {one.model} and {others} of {two.model}; embeddings of different weights "
                "mean nothing to each other: embed both with the same weights"
            )
        prepared = _differing(_without_flip(one), _without_flip(two))
        for differing, how in ((prepared, "of images prepared otherwise"), (settings, "made otherwise")):
            if differing:
                raise DataError(f"{what} and {others} are {how} ({differing}); embed both alike")
        flips = [each.preprocessing.get("flip") for each in (one, two)]
        if None not in flips and flips[0] != flips[1]:
            first, second = (_FLIPPED[bool(each)] for each in flips)
            said = f"{what} are {first}, {others} {second}"
            if flip:
                raise DataError(f"{said}; embed both alike (--flip or --no-flip, flip= in Python)")
            warn_once(_log, f"{said}: distances are larger than of embeddings that are alike")

    def check_finite(self, what: str = "an image") -> None:
        """Raise DataError for the first image whose embedding is not finite: what compares it would be meaningless.

        Args:
            what: what messages call an image of which no path is known.
        """
        for value in self._set_fields().values():
            row = _first_not_finite(value)
            if row is None:
                continue
            named = self.paths[row] if self.paths else f"{what} (number {row}, counted from 0)"
            raise DataError(
                f"{named}: its embedding is not finite; the weights are diverged or damaged, or too large for "
                "half precision (eval.amp): test them with eval.amp none, or take other ones"
            )

    def save(self, path) -> None:
        """Write all fields that are set, paths and origin to the safetensors file `path`, whole or not at all."""
        save_rows(path, self)

    @staticmethod
    def load(path) -> Embedding:
        """What `save` wrote, on the CPU. Raises DataError if `path` is missing, damaged or of another kind."""
        return load_rows(path)[0]

    def layout(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and per-image shapes of the fields set: what :meth:`unpack` needs to undo :meth:`pack`."""
        return tuple((name, tuple(value.shape[1:])) for name, value in self._set_fields().items())

    def pack(self) -> Tensor:
        """All fields side by side, [B, K] float32, for engines that carry a single tensor."""
        return torch.cat([value.flatten(1).float() for value in self._set_fields().values()], dim=1)

    @staticmethod
    def unpack(packed: Tensor, layout) -> Embedding:
        """The embedding whose `pack()` and `layout()` are given, the layout also as an embedding that has it.

        Raises:
            ValueError: the widths do not add up.
        """
        layout = layout.layout() if isinstance(layout, Embedding) else layout
        widths = [int(torch.Size(shape).numel()) for _, shape in layout]
        if packed.ndim != 2 or packed.shape[1] != sum(widths):
            raise ValueError(f"a packed embedding of layout {layout} is [B, {sum(widths)}], got {tuple(packed.shape)}")
        pieces = packed.split(widths, dim=1)
        return Embedding(**{n: p.reshape(len(packed), *shape) for p, (n, shape) in zip(pieces, layout)})


_FLIPPED = {True: "averaged with their mirror images", False: "of images as they are (no flip)"}


def _without_flip(origin: Origin) -> dict:
    return {key: value for key, value in origin.preprocessing.items() if key != "flip"}


def _differing(one: dict, two: dict) -> str:
    """The keys of which `one` and `two` have different values, with these; empty if one of them is not known."""
    keys = [key for key in one | two if one.get(key) != two.get(key)] if one and two else []
    return ", ".join(f"{key} {one.get(key)} and {two.get(key)}" for key in keys)


def check_embedding(given, what: str = "these embeddings") -> None:
    """Raise DataError if `given` is no embedding, but e.g. an array or a path."""
    if not isinstance(given, Embedding):
        raise DataError(f"{what} are a {type(given).__name__}; give an Embedding, which model.embed(images) makes")


def _first_not_finite(value: Any) -> int | None:
    """The first row of `value`, [B, ...] and perhaps of a file, of which a number is not finite."""
    for start in range(0, len(value), CHECKED):
        # the length, which is not finite either where a square is beyond float32
        rows = value[start : start + CHECKED].flatten(1)
        bad = ~torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).isfinite()
        if bad.any():
            return start + int(bad.nonzero()[0])
    return None


def _joined_origin(items: list[Embedding]) -> Origin | None:
    known = [item.origin for item in items if item.origin is not None]
    if len(known) < len(items):
        return None
    for item in items[1:]:
        items[0].check_same_model(item, flip=True)
    paths = tuple(path for origin in known for path in origin.paths)
    skipped = {path: reason for origin in known for path, reason in origin.skipped.items()}
    return replace(known[0], paths=paths if len(paths) == sum(map(len, items)) else (), skipped=skipped)


# ---------------------------------------------------------------------- files


def save_rows(path, embedding: Embedding, tensors: dict[str, Tensor] | None = None, header: dict | None = None) -> None:
    """Write `embedding` to the safetensors file `path`, with further `tensors` and a `header` of plain values."""
    origin = embedding.origin or Origin()
    content = {name: value[:].detach().cpu().contiguous() for name, value in embedding._set_fields().items()}
    if origin.paths:  # a tensor, because a safetensors header is limited to 100 MB
        content["paths"] = to_bytes(list(origin.paths))
    texts = {"format": FORMAT, "origin": json.dumps(origin.header()), "header": json.dumps(header or {})}
    write_atomically(path, lambda temporary: save_checked({**content, **(tensors or {})}, temporary, texts))


def load_rows(path) -> tuple[Embedding, dict[str, Tensor], dict]:
    """The embedding in `path`, the further tensors and the header that `save_rows` wrote.

    Raises:
        DataError: `path` is missing, damaged or of another kind.
    """
    try:
        texts, tensors = read_whole(user_path(path), _content)
        if not is_intact(tensors, texts):
            raise ValueError("it is damaged, its checksum does not hold")
        paths = from_bytes(tensors.pop("paths")) if "paths" in tensors else []
        origin = Origin(tuple(paths), **parse_json(texts["origin"])) if "origin" in texts else None
        chosen = {name: tensors.pop(name) for name in FIELDS if name in tensors}
        if tensors and texts.get("format") != FORMAT:
            raise ValueError(f"it also holds {', '.join(list(tensors)[:3])}")
        return Embedding(**chosen, origin=origin), tensors, parse_json(texts.get("header", "{}"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file of embeddings") from None
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not a file that Embedding.save wrote ({error})") from error


def read_header(path) -> dict:
    """The header that `save_rows` wrote, without the tensors. Raises DataError as `load_rows`."""
    try:
        return parse_json(read_whole(user_path(path), _texts).get("header", "{}"))
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file of embeddings") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a file that Embedding.save wrote ({error})") from error


def _content(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def _texts(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def to_bytes(value) -> Tensor:
    """A plain value as a tensor of the bytes of its JSON text."""
    return torch.from_numpy(np.frombuffer(json.dumps(value).encode(), np.uint8).copy())


def from_bytes(content: Tensor):
    """The value that `to_bytes` took."""
    return parse_json(content.numpy().tobytes())
