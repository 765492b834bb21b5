"""Weight files whose training code saved its settings beside the tensors, read without running code from the file.

torch's own safe reader refuses a yacs `CfgNode` even when it is allowed, because it is a subclass of dict; DINO, iBOT
and what descends from them save their `argparse.Namespace`.
"""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from pathlib import Path

import torch

__all__ = ["Function", "Sealed", "read_with_settings"]


class Sealed(type):
    """A class whose attributes a pickle cannot set."""

    def __setattr__(cls, name: str, value) -> None:
        raise pickle.UnpicklingError(f"it changes {cls.__name__}")


class Function:
    """A function or class that a pickle may call and not change: pickles can set attributes of what they name."""

    __slots__ = ("_call",)

    def __init__(self, call):
        self._call = call

    def __call__(self, *args):
        """What the function, or the class, makes of `args`."""
        return self._call(*args)

    def __setstate__(self, state) -> None:
        """Refuses `state`."""
        raise pickle.UnpicklingError(f"it changes {self._call.__name__}")


class Settings(dict, metaclass=Sealed):
    """What a saved `CfgNode` becomes: its keys and values."""


class Inert(metaclass=Sealed):
    """Stands for a value that is not needed: takes whatever it is given and does nothing with it."""

    def __init__(self, *args):
        """Forgets `args`."""

    def __setstate__(self, state) -> None:
        """Forgets `state`."""


def _latin1(text: str, encoding: str) -> bytes:
    """How bytes are written in old pickles."""
    return text.encode("latin1")


_NUMPY = [(f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")] + [("numpy", "dtype")]
_ALLOWED = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "Counter"): Function(Counter),
    ("torch._utils", "_rebuild_tensor_v2"): Function(torch._utils._rebuild_tensor_v2),
    ("torch._utils", "_rebuild_parameter"): Function(torch._utils._rebuild_parameter),
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("_codecs", "encode"): Function(_latin1),
    ("yacs.config", "CfgNode"): Settings,
    ("argparse", "Namespace"): Inert,
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)},
    **dict.fromkeys(_NUMPY, Inert),
}


class _Unpickler(pickle.Unpickler):
    """Knows tensors, plain containers and yacs settings; torch adds its storage types by itself."""

    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds a {module}.{name}")
        return _ALLOWED[module, name]


class _Pickle:
    """What `torch.load` wants in place of the module `pickle`."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file, **options):
        return _Unpickler(file, **options).load()


def read_with_settings(path: Path):
    """The content of a file written by `torch.save`, on the CPU, with yacs settings as dicts; argparse's and numpy
    scalars are left out.

    Raises:
        pickle.UnpicklingError: the file holds anything else; nothing of it has been run. Damaged files raise what
            torch raises.
    """
    try:
        return torch.load(path, map_location="cpu", pickle_module=_Pickle, weights_only=False)
    except (AttributeError, TypeError) as error:  # how a pickle put together wrongly fails
        raise pickle.UnpicklingError(str(error)) from error
