"""Whether a weight file is what was written, and no larger inside than it says outside; checked before it is used.

torch's reader checks neither: of checkpoints with one byte changed it accepts about half.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from occplug.errors import CheckpointError
from occplug.utils.files import check_text

__all__ = [
    "CHECKSUM",
    "UNPACKED",
    "check_archive",
    "check_lengths",
    "check_tensors",
    "checksum",
    "is_intact",
    "read_arrays",
    "save_checked",
]

UNPACKED = 256 << 20  # bytes: what the packed records of an archive (code, in TorchScript's) may take beyond its size
VALUES = 2_000_000  # of a checkpoint, tensors, numbers and texts together
CHECKSUM = "crc32"  # key in the header of our safetensors files
_BLOCK = 1 << 20
_CURE = "fetch or make it again"


def check_archive(path: Path) -> None:
    """Check the size and checksums of all records of the zip archive `path`, which torch's files are.

    A file that is no zip archive passes: the formats before torch 1.6 have no checksums.

    Raises:
        CheckpointError: a record is damaged, or they unpack to much more than the file's size.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            inside, outside = sum(record.file_size for record in archive.infolist()), path.stat().st_size
            if inside > outside + UNPACKED:
                raise CheckpointError(
                    f"{path}: refused: its {outside:,} bytes unpack to {inside:,}, more than the limit of {UNPACKED:,} "
                    "bytes beyond its size; torch's own files are not packed"
                )
            for record in archive.infolist():
                with archive.open(record) as content:
                    while content.read(_BLOCK):
                        pass
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(f"{path}: it is damaged, its checksums do not hold ({reason}); {_CURE}") from error


def read_arrays(file: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays `names` of numpy's archive `file`, without objects.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, lacks an array, or one claims more numbers than the file has.
    """
    damage = (CheckpointError, OSError, KeyError, EOFError, SyntaxError, TypeError, zipfile.BadZipFile, MemoryError)
    try:
        check_archive(file)
        with np.load(file, allow_pickle=False) as saved:
            return {name: saved[name] for name in names}
    except FileNotFoundError:
        raise
    except damage as error:
        raise ValueError(str(error) or type(error).__name__) from error


def check_lengths(arrays: Mapping[str, np.ndarray], names: Sequence[str], what: str) -> int:
    """Number of rows of the arrays `names`. Raises ValueError if they differ; `what` is what a row is of."""
    lengths = {name: len(arrays[name]) if arrays[name].ndim else 0 for name in names}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise ValueError(f"not one row for each {what}: {listed}")
    return next(iter(lengths.values()))


def check_tensors(content, path) -> None:
    """Check that everything in a checkpoint's `content` takes no more memory than its file did.

    A tensor of 400 bytes may claim any number of rows (strides of 0), and a list may hold itself many times over.

    Raises:
        CheckpointError: a tensor claims more numbers than are there, or there are more than `VALUES` values.
    """
    waiting, count = [("", content)], 0
    while waiting:
        name, value = waiting.pop()
        count += 1
        if count > VALUES:
            raise CheckpointError(f"{path}: refused: it holds more than {VALUES:,} values")
        if isinstance(value, Mapping):
            waiting += [(f"{name}.{key}", one) for key, one in value.items()]
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += [(name, one) for one in value]
        elif isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized:
            there = 0 if value.device.type == "meta" else value.untyped_storage().nbytes()
            if value.numel() * value.element_size() > there:
                claimed = f"{list(value.shape)}, {value.numel() * value.element_size():,} bytes"
                raise CheckpointError(f"{path}: refused: {name.lstrip('.')} claims to be {claimed}, and has {there:,}")


def checksum(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    """Eight hexadecimal digits over `header`, and names, types, shapes and numbers of `tensors`, whatever the order."""
    texts = [[key, header[key]] for key in sorted(header) if key != CHECKSUM]
    digits = zlib.crc32(json.dumps(texts).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digits = zlib.crc32(f"{name} {value.dtype} {list(value.shape)}\n".encode(), digits)
        if value.numel():
            digits = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, digits)
    return f"{digits:08x}"


def save_checked(tensors: Mapping[str, Tensor], file: Path, header: Mapping[str, str]) -> None:
    """Write safetensors with their checksum in the header; errors are those of safetensors' `save_file`, and
    OutputError for a name that is not text."""
    check_text(file)
    save_file(dict(tensors), file, {**header, CHECKSUM: checksum(tensors, header)})


def is_intact(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> bool:
    """Whether `tensors` are what `header` says; files without a checksum, of earlier versions, pass."""
    return header.get(CHECKSUM, "") in ("", checksum(tensors, header))
