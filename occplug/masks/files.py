"""Part mask files: where they lie beside a data set, and reading them with every fault named."""

from __future__ import annotations

import math
import os
import struct
import tokenize
from collections.abc import Iterable
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from occplug.errors import DataError, first_line
from occplug.utils.body_parts import NUM_CHANNELS

__all__ = ["MaskFile", "check_mask_file", "find_mask_files", "read_mask_file"]

# what numpy raises on damaged headers, which it reads as a Python expression
_BAD_HEADER: tuple[type[Exception], ...] = (
    *(ValueError, EOFError, SyntaxError, TypeError, KeyError, OverflowError, MemoryError, RecursionError),
    *(OSError, tokenize.TokenError, struct.error, AttributeError),
)
SUFFIXES = (".npy", "{ending}.npy", "{ending}.confidence_fields.npy")
LOWEST, HIGHEST = -10, 10  # of confidences, with room for filters that overshoot
_CURE = "copy it again, or delete it and make it with occplug make-masks"


class MaskFile(NamedTuple):
    """A mask file: its `path`, its `size` in bytes, the `time` of its last change in ns."""

    path: str
    size: int
    time: int


def find_mask_files(folder: str, images: Iterable[str]) -> dict[str, MaskFile | None]:
    """The mask file below `folder` of each image; None where there is none.

    Args:
        images: paths below the data set's folder, e.g. `bounding_box_train/0001_c1_f0000001.jpg`. Masks lie in folders
            of the same name, of that name with `_resize` after it or after a folder above (ProFD's resized images:
            `train_resize/whole_body_images`), or, as the published masks of Occluded-REID and P-DukeMTMC do, in these
            without the folder per person. File names are tried in this order: `NAME.npy`, `NAME.jpg.npy`,
            `NAME.jpg.confidence_fields.npy`.
    """
    listings: dict[str, dict[str, MaskFile]] = {}
    mask_of: dict[str, MaskFile | None] = {}
    for image in images:
        names = mask_names(image)
        mask_of[image] = None
        for below in _folders(image):
            if below not in listings:
                listings[below] = _listing(os.path.join(folder, below))
            mask_of[image] = next((listings[below][name] for name in names if name in listings[below]), None)
            if mask_of[image] is not None:
                break
    return mask_of


def mask_names(image: str) -> list[str]:
    """File names a mask of `image` may have, the first is the one that we write."""
    path = PurePath(image)
    return [path.stem + suffix.format(ending=path.suffix) for suffix in SUFFIXES]


def _folders(image: str) -> list[str]:
    return [form for parent in list(PurePath(image).parents)[:2] for form in _forms(parent.parts)]


def _forms(parts: tuple[str, ...]) -> list[str]:
    """The folder `parts`, and the same with `_resize` after one of its names, the last first."""
    resized = [(*parts[:i], f"{parts[i]}_resize", *parts[i + 1 :]) for i in reversed(range(len(parts)))]
    return ["/".join(form) for form in (parts, *resized)]


def _listing(folder: str) -> dict[str, MaskFile]:
    if not os.path.isdir(folder):
        return {}
    with os.scandir(folder) as entries:
        files = [entry for entry in entries if entry.name.endswith(".npy")]
        return {f.name: MaskFile(f.path, f.stat().st_size, f.stat().st_mtime_ns) for f in files}


def check_mask_file(path: str | os.PathLike) -> tuple[int, int]:
    """The size (h, w) of a mask file's maps, from its header alone.

    Raises:
        DataError: no `.npy` file, cut off, holding pickled objects (never unpickled), of another type or shape.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as stream:
            shape, dtype = _header(stream)
            missing = stream.tell() + math.prod(shape) * dtype.itemsize - os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise DataError(f"{path}: the mask file cannot be read ({error.strerror or error}); {_CURE}") from error
    except _BAD_HEADER as error:
        raise DataError(f"{path}: not a readable .npy file ({first_line(error)}); {_CURE}") from error
    if dtype.hasobject:
        raise DataError(
            f"{path}: refused, because it holds pickled Python objects and reading them would run code stored in the "
            "file; masks are plain arrays of float32"
        )
    if missing > 0:
        raise DataError(f"{path}: the mask file is cut off, {missing} bytes are missing; {_CURE}")
    if len(shape) != 3 or shape[0] != NUM_CHANNELS or min(shape) < 1:
        raise DataError(
            f"{path}: the array is {list(shape)}, expected [{NUM_CHANNELS}, h, w]: PifPaf's confidences of 17 "
            "keypoints and 19 limbs; masks of another kind cannot be grouped into parts"
        )
    if dtype.kind != "f":
        raise DataError(f"{path}: the array is of type {dtype}, expected float32 confidences; {_CURE}")
    return shape[1], shape[2]


def _header(stream) -> tuple[tuple[int, ...], np.dtype]:
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(stream)
    if version not in read:
        raise ValueError(f"version {version} of the format")
    shape, _, dtype = read[version](stream)
    return shape, dtype


def read_mask_file(path: str | os.PathLike) -> Tensor:
    """float32 [36, h, w] confidences of the file `path`.

    Raises:
        DataError: as `check_mask_file`, or values that are no confidences.
    """
    check_mask_file(path)
    try:
        maps = np.load(path, allow_pickle=False)
    except _BAD_HEADER as error:
        raise DataError(f"{path}: the mask file cannot be read ({first_line(error)}); {_CURE}") from error
    if not np.isfinite(maps).all():
        raise DataError(f"{path}: the mask holds values that are not finite; {_CURE}")
    if maps.min() < LOWEST or maps.max() > HIGHEST:
        raise DataError(
            f"{path}: the mask holds values from {maps.min():.3g} to {maps.max():.3g}, and confidences lie in [0, 1]; "
            f"{_CURE}"
        )
    return torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))
