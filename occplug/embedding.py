"""What a method says about an image: the one type that travels from a model to the evaluation."""

import operator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from occplug.errors import DataError
from occplug.utils.files import write_atomically

__all__ = ["Embedding"]


@dataclass
class Embedding:
    """Embeddings of B images; `len()`, slicing and `.to()` act on every field that is set.

    Args:
        vector: [B, D] float32, what plain distances compare.
        parts: [B, P, d] float32, one vector per body part, or None.
        visibility: [B, P] in [0, 1], how much of each part is seen, or None.
        mask: [B, D or d] in [0, 1], a per-channel mask, or None.

    Raises:
        ValueError: a field whose first axis is not B long.
    """

    vector: Tensor
    parts: Tensor | None = None
    visibility: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self):
        if self.vector.ndim != 2:
            raise ValueError(f"vector is [B, D], got shape {tuple(self.vector.shape)}")
        for name, value in self._set_fields().items():
            if len(value) != len(self.vector):
                raise ValueError(f"{name} has {len(value)} rows, vector has {len(self.vector)}")

    def _set_fields(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def _map(self, function) -> "Embedding":
        return Embedding(**{name: function(value) for name, value in self._set_fields().items()})

    def __len__(self) -> int:
        return len(self.vector)

    def __getitem__(self, index) -> "Embedding":
        """Rows by slice, list, boolean or integer tensor; one integer keeps the batch axis."""
        if not isinstance(index, slice) and np.ndim(index) == 0:
            index = [operator.index(index)]
        return self._map(lambda value: value[index])

    def to(self, *args, **kwargs) -> "Embedding":
        """The same embeddings on another device or in another type."""
        return self._map(lambda value: value.to(*args, **kwargs))

    @staticmethod
    def cat(items: list["Embedding"]) -> "Embedding":
        """One embedding from several, in order. Raises ValueError if the list is empty or the fields set differ."""
        if not items:
            raise ValueError("no embeddings to put together")
        names = set(items[0]._set_fields())
        if any(set(item._set_fields()) != names for item in items):
            raise ValueError(f"embeddings differ in what they carry: {[sorted(i._set_fields()) for i in items]}")
        return Embedding(**{name: torch.cat([getattr(item, name) for item in items]) for name in names})

    def save(self, path) -> None:
        """Write all fields that are set to the safetensors file `path`, whole or not at all."""
        tensors = {name: value.detach().cpu().contiguous() for name, value in self._set_fields().items()}
        write_atomically(Path(path), lambda temporary: save_file(tensors, temporary))

    @staticmethod
    def load(path) -> "Embedding":
        """What `save` wrote, on the CPU. Raises DataError if `path` is missing, damaged or of another kind."""
        try:
            return Embedding(**load_file(path))
        except FileNotFoundError:
            raise DataError(f"{path}: there is no such file of embeddings") from None
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a file that Embedding.save wrote ({error})") from error

    def layout(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and per-image shapes of the fields set: what :meth:`unpack` needs to undo :meth:`pack`."""
        return tuple((name, tuple(value.shape[1:])) for name, value in self._set_fields().items())

    def pack(self) -> Tensor:
        """All fields side by side, [B, K] float32, for engines that carry a single tensor."""
        return torch.cat([value.flatten(1).float() for value in self._set_fields().values()], dim=1)

    @staticmethod
    def unpack(packed: Tensor, layout) -> "Embedding":
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
