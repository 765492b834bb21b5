"""Tensors of a TorchScript archive, read without torch's loader, which runs code that the archive brings along.

open_clip (`open_clip.openai.load_openai_model`) reads such files with that loader, so it is not used for them.

An archive is a zip file: `data.pkl` has the modules, as objects of classes `__torch__.…` whose state is a dict, and
`data/<key>` the numbers of each tensor.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from occplug.utils.unpickling import Function, Sealed

__all__ = ["read_torchscript"]

_STORAGES = {"Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16}
_STORAGES |= {"Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8}
_STORAGES |= {"Bool": torch.bool}


class _Object(metaclass=Sealed):
    """What a module becomes: the attributes it was saved with, and none of its code."""

    def __init__(self, *args):
        self.attributes: dict = {}

    def __setstate__(self, state) -> None:
        """Keeps attributes by name; a class with a state of its own form holds nothing that is wanted."""
        self.attributes = state if isinstance(state, dict) else {}


def _first(value, *args):
    """How the archive writes a typed list or dict: the plain one, and its type."""
    return value


def _tensor(flat: Tensor, offset: int, size, stride, *args) -> Tensor:
    return torch.as_strided(flat, tuple(size), tuple(stride), offset)


class _Unpickler(pickle.Unpickler):
    """Knows modules without code, tensors and plain containers; anything else is refused."""

    def __init__(self, archive: torch._C.PyTorchFileReader):
        super().__init__(io.BytesIO(archive.get_record("data.pkl")), encoding="utf-8")
        self.archive = archive
        self.flat: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str):
        if module.startswith("__torch__"):
            return _Object
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return Function(_tensor)
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and (name.startswith("build_") or name == "restore_type_tag"):
            return Function(_first)
        if module == "torch" and name.removesuffix("Storage") in _STORAGES:
            return _STORAGES[name.removesuffix("Storage")]
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")

    def persistent_load(self, pid) -> Tensor:
        """All numbers of a tensor's storage, of which it may be a part."""
        _, kind, key, *_ = pid
        if key not in self.flat:
            content = bytearray(self.archive.get_record(f"data/{key}"))
            self.flat[key] = torch.frombuffer(content, dtype=kind) if content else torch.empty(0, dtype=kind)
        return self.flat[key]


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The tensors in the archive `path` by their dotted names, on the CPU; nothing in it is run.

    Raises:
        pickle.UnpicklingError: it holds something else than modules, tensors and plain values, or is put together
            wrongly. Damaged files raise what torch raises.
    """
    try:
        module = _Unpickler(torch._C.PyTorchFileReader(str(path))).load()
        return dict(_tensors(module, ""))
    except (AttributeError, TypeError, AssertionError) as error:  # how a pickle put together wrongly fails
        raise pickle.UnpicklingError(str(error)) from error


def _tensors(module: _Object, prefix: str):
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Object):
            yield from _tensors(value, f"{prefix}{name}.")
