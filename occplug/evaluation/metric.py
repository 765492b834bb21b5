"""A method's distance as data: a name and a few numbers, so that files and search engines can carry it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from occplug.embedding import Embedding
from occplug.errors import DataError
from occplug.evaluation.distances import cosine_distance, squared_euclidean
from occplug.evaluation.masked import MASK_PLACES, masked_distance
from occplug.evaluation.parts import METRICS, part_distance

__all__ = ["Metric"]


def _normalised_euclidean(query: Embedding, gallery: Embedding) -> Tensor:
    return 2 * cosine_distance(query.vector, gallery.vector)


def _parts(query: Embedding, gallery: Embedding, metric: str = "euclidean", vis_floor: float = 0.1) -> Tensor:
    # flip averaging leaves vectors shorter than 1
    q, g = (_of_parts(side) for side in (query, gallery))
    return part_distance(*q, *g, metric=metric, vis_floor=vis_floor)


def _of_parts(e: Embedding) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors of the whole and of the parts, and visibility; `Metric` has checked that they are there."""
    assert e.parts is not None and e.visibility is not None
    return F.normalize(e.vector), F.normalize(e.parts, dim=2), e.visibility


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


# name -> (function, fields it reads, its options and what they may be)
_KINDS: dict[str, tuple[Callable[..., Tensor], tuple[str, ...], dict[str, Callable[[object], bool]]]] = {
    "squared_euclidean": (lambda q, g: squared_euclidean(q.vector, g.vector), ("vector",), {}),
    "normalised_euclidean": (_normalised_euclidean, ("vector",), {}),
    "cosine": (lambda q, g: cosine_distance(q.vector, g.vector), ("vector",), {}),
    "parts": (_parts, ("vector", "parts", "visibility"), {"metric": METRICS.__contains__, "vis_floor": _is_number}),
    "masked": (
        lambda q, g, place="proto_pre": masked_distance(q.vector, q.mask, g.vector, place),
        ("vector", "mask"),
        {"place": MASK_PLACES.__contains__},
    ),
}


@dataclass(frozen=True)
class Metric:
    """A distance between embeddings; calling it with Q queries and G gallery images gives [Q, G], smaller is closer.

    Args:
        name: "squared_euclidean"; "normalised_euclidean", |q^ - g^|^2 with q^ = q / |q|; "cosine", 1 - cos; "parts"
            (:func:`occplug.evaluation.part_distance`); "masked" (:func:`occplug.evaluation.masked_distance`).
        options: keyword arguments of that distance: `metric` and `vis_floor` of "parts", `place` of "masked".

    Raises:
        DataError: a name or an option that is not one of these, e.g. in a file of a later version.
    """

    name: str
    options: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.name not in _KINDS:
            raise DataError(f"there is no distance {self.name!r}; known are: {', '.join(_KINDS)}")
        options = _KINDS[self.name][2]
        for key, value in self.options.items():
            if key not in options or not options[key](value):
                known = ", ".join(options) or "none"
                raise DataError(f"the distance {self.name!r} has no option {key!r} of {value!r}; it has: {known}")

    def __call__(self, query: Embedding, gallery: Embedding) -> Tensor:
        """[Q, G] float32. Raises DataError if an embedding lacks a field that the distance reads."""
        function, needed, _ = _KINDS[self.name]
        for side in (query, gallery):
            lacking = [name for name in needed if getattr(side, name) is None]
            if lacking:
                raise DataError(
                    f"the distance {self.name!r} compares {', '.join(needed)}, and an embedding has no "
                    f"{', '.join(lacking)}; embed both sides with the same model"
                )
        return function(query, gallery, **self.options)

    @property
    def is_inner_product(self) -> bool:
        """Whether the distance alone follows from the vectors' inner products (or lengths), as search engines need."""
        return _KINDS[self.name][1] == ("vector",)

    def as_dict(self) -> dict:
        """What :meth:`of_dict` reads again; plain values only."""
        return {"name": self.name, **self.options}

    @classmethod
    def of_dict(cls, content: dict) -> Metric:
        """The metric that `as_dict` described."""
        return cls(content.get("name", ""), {key: value for key, value in content.items() if key != "name"})

    @classmethod
    def for_fields(cls, embedding: Embedding) -> Metric:
        """The distance of embeddings whose method is not known, by the fields they have."""
        if embedding.parts is not None and embedding.visibility is not None:
            return cls("parts")
        return cls("masked") if embedding.mask is not None else cls("normalised_euclidean")
