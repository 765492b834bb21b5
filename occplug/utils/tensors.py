"""Reading weight files of others onto the CPU without running code that may be in them."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from occplug.errors import CheckpointError, first_line
from occplug.utils.files import user_path
from occplug.utils.integrity import check_archive
from occplug.utils.keys import note_found
from occplug.utils.torchscript import read_torchscript
from occplug.utils.unpickling import read_with_settings

__all__ = ["WRAPPERS", "read_tensors", "strip_module"]

WRAPPERS = ("state_dict", "model")  # keys under which training scripts keep the weights


def read_tensors(
    checkpoint: str | os.PathLike | Mapping[str, Tensor],
    where: str = "the state dict",
    wrappers: Collection[str] = WRAPPERS,
) -> tuple[dict[str, Tensor], str]:
    """The tensors of a weight file by name, floats as float32, and what to call it in messages.

    Reads safetensors, TorchScript archives (OpenAI's `.pt`), and state dicts saved by torch, bare or under
    `state_dict` or `model`, also with yacs settings beside them. A prefix `module.` (DataParallel) is dropped. A dict
    in place of a path is taken as it is.

    Args:
        where: what to call a dict.
        wrappers: keys that the tensors may stand under.

    Raises:
        CheckpointError: no such file, damaged, needing code to run, or holding something other than plain tensors.
    """
    if isinstance(checkpoint, Mapping):
        content = checkpoint
    else:
        path = user_path(checkpoint)
        content, where = _read_file(path), str(path)
    state = _tensors(content, where, wrappers)
    note_found(state)
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}, where


def _read_file(path: Path):
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such weight file")
    check_archive(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if _is_torchscript(path):
            return read_torchscript(path)
        return _read_pickle(path)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{path}: refused: it is damaged, or reading it would run code stored in the file; only tensors and plain "
            f"values are accepted ({reason})"
        ) from error
    except Exception as error:  # damaged pickles and archives fail in many ways
        reason = first_line(error)
        raise CheckpointError(f"{path}: not a readable weight file ({reason})") from error


def _read_pickle(path: Path):
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # perhaps only because of settings beside the tensors
        return read_with_settings(path)


def _is_torchscript(path: Path) -> bool:
    """Both of torch's formats are zip files; only TorchScript's has constants beside the tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _tensors(content, where: str, wrappers: Collection[str]) -> dict[str, Tensor]:
    for wrapper in wrappers:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{where}: holds a {type(content).__name__}, expected tensors by name")
    others = [str(name) for name, value in content.items() if not _is_plain(value)]
    if others:
        raise CheckpointError(f"{where}: these entries are no plain tensors of numbers: {', '.join(others)}")
    return strip_module({str(name): torch.as_tensor(value).detach() for name, value in content.items()})


def _is_plain(value) -> bool:
    """Whether it is a whole number, or a tensor of real ones that are all there.

    A tensor may claim more numbers than its file holds (strides of 0) or have none (meta), and what is made from it
    would take any amount of memory.
    """
    if isinstance(value, int):
        return value.bit_length() < 64
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.device.type == "meta":
        return False
    there = value.untyped_storage().nbytes() // value.element_size() >= value.numel()
    return there and not value.is_quantized and not value.is_complex()


def strip_module(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the prefix `module.` of DataParallel dropped from every name that has it."""
    return {name.removeprefix("module."): value for name, value in state.items()}
