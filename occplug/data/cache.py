"""Pictures decoded and resized once: one file of bytes, memory-mapped, that workers and ranks of a machine share.

What comes before the first random transform is the same in every epoch, and takes most of the time of loading. A cache
holds exactly that, so batches are the same to the bit with and without it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL
import torch
import torchvision
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm import tqdm

from occplug.distributed import current_ranks
from occplug.errors import ConfigError
from occplug.transforms import Resize
from occplug.utils import compiled
from occplug.utils.files import plain_name, user_path, write_atomically
from occplug.utils.measuring import MIB, free_memory
from occplug.utils.processes import end_with_parent

__all__ = ["PictureCache", "cached_pictures", "start_worker"]

log = logging.getLogger(__name__)
VERSION = "2"
MEMORY = "memory"
GB = 1e9
_SHARE = 0.8  # of the free memory or disk, that a cache may take
_BATCH = 64
_BLOCK = 1 << 22  # bytes read at once
_CHECKSUM = 4  # bytes at the end of a file: the CRC-32 of the pictures, little-endian


def start_worker(number: int) -> None:
    """In each loading process: none outlives the parent, whose lock on the run's folder it holds, too."""
    end_with_parent()
    info: Any = get_worker_info()
    compiled.start(len(info.dataset))  # where it is no fork, which has what its parent compiled


class PictureCache:
    """Resized pictures by number, from a file that :func:`cached_pictures` made.

    Args:
        file: begins with `count` pictures of `height` x `width` RGB pixels one after the other.
    """

    def __init__(self, file: str, count: int, height: int, width: int):
        self.file, self.shape = file, (count, height, width, 3)
        self._rows: np.ndarray | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, number: int) -> np.ndarray:
        """Pixels of picture `number`, uint8 [height, width, 3], not to be changed."""
        if self._rows is None:  # in each process that is spawned its own
            self._rows = np.memmap(self.file, np.uint8, "r", shape=self.shape)
        return self._rows[number]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_rows": None}


class _Resized(Dataset):
    """Pictures as uint8 [H, W, 3]."""

    def __init__(self, paths: Sequence[str], read: Callable, resize: Resize):
        self.paths, self.read, self.resize = paths, read, resize

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> np.ndarray:
        return np.asarray(self.resize.resized(self.read(self.paths[number])))


def cached_pictures(
    where: str, name: str, paths: Sequence[str], read: Callable, resize: Resize, workers: int = 0
) -> PictureCache:
    """The cache of the pictures at `paths`; made if it is not there.

    Every process of a run has to call it. One of each machine makes the cache, whole or not at all.

    Args:
        where: "memory", for as long as the process that makes it lives, or a folder, whose files later runs find again.
            The name of a file there has a key made of names, sizes and times of change of the pictures, their order
            and the resize, so a file for other ones is never read; one whose checksum does not hold is made again.
        name: of the data set, for the file's name and messages.
        read: path -> RGB picture, or its pixels uint8 [H, W, 3].
        workers: processes that read pictures.

    Raises:
        ConfigError: it would take more than 80 % of the memory or disk that is free; says how much.
        DataError: a picture cannot be read, as `open_picture`.
        OutputError: the file cannot be written.
    """
    ranks = current_ranks()
    size = len(paths) * resize.height * resize.width * 3
    made = ""
    if ranks.local_rank == 0:
        chunks = _chunks(paths, read, resize, workers, name)
        made = _in_memory(name, size, chunks) if where == MEMORY else _in_folder(where, name, paths, resize, chunks)
    file = ranks.objects(made)[ranks.rank - ranks.local_rank]  # that of the first process on this machine
    cache = PictureCache(file, len(paths), resize.height, resize.width)
    if where == MEMORY and made:
        weakref.finalize(cache, os.close, int(Path(file).name))
    return cache


def _chunks(paths: Sequence[str], read: Callable, resize: Resize, workers: int, name: str) -> Iterator[np.ndarray]:
    loader = DataLoader(
        _Resized(paths, read, resize),
        _BATCH,
        num_workers=min(workers, len(paths) // _BATCH),
        collate_fn=np.stack,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # so that the run's own is left alone
    )
    compiled.start(len(paths))
    shown = sys.stderr.isatty() and current_ranks().is_main
    yield from tqdm(loader, f"caching {name}", leave=False, disable=not shown, dynamic_ncols=True)


def _write(file: IO[bytes], chunks: Iterator[np.ndarray]) -> int:
    """By plain writes, which fail with an error where no room is left; a write into mapped memory would kill.

    Returns: the CRC-32 of what was written.
    """
    digits = 0
    for chunk in chunks:
        file.write(chunk.data)
        digits = zlib.crc32(chunk.data, digits)
    file.flush()
    return digits


def _is_intact(file: Path, size: int) -> bool:
    """Whether `file` holds `size` bytes of pictures and their checksum. Read once a run, it need not be read again."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        digits, left = 0, size
        while left and (block := opened.read(min(left, _BLOCK))):
            digits, left = zlib.crc32(block, digits), left - len(block)
        whole = not left and opened.read() == digits.to_bytes(_CHECKSUM, "little")
    if not whole:
        log.warning("data.cache: %s is damaged, and is made again", file)
    return whole


def _in_memory(name: str, size: int, chunks: Iterator[np.ndarray]) -> str:
    """A file without a name: it needs no clearing up, whichever way its processes end. Returns a path to open it by."""
    if not hasattr(os, "memfd_create"):
        raise ConfigError("data.cache: memory needs Linux; name a folder in its place")
    _check_room(name, size, free_memory() * MIB, "of memory", "name a folder, or set data.cache none")
    log.info("data.cache: %s takes %.2f GB of memory", name, size / GB)
    descriptor = os.memfd_create(plain_name(name))
    try:
        with open(descriptor, "wb", closefd=False) as file:
            _write(file, chunks)
    except BaseException:
        os.close(descriptor)
        raise
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def _in_folder(where: str, name: str, paths: Sequence[str], resize: Resize, chunks: Iterator[np.ndarray]) -> str:
    folder, size = user_path(where).absolute(), len(paths) * resize.height * resize.width * 3
    file = folder / f"{plain_name(name)}-{resize.height}x{resize.width}-{_key(paths, resize)}.rgb"
    if _is_intact(file, size):
        log.info("data.cache: %s is read from %s", name, file)
        return str(file)
    there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
    cure = "name a folder on a larger disk, or set data.cache none"
    _check_room(name, size, shutil.disk_usage(there).free, f"in {folder}", cure)
    log.info("data.cache: %s takes %.2f GB in %s", name, size / GB, file)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as opened:
            opened.write(_write(opened, chunks).to_bytes(_CHECKSUM, "little"))
            opened.flush()
            os.fsync(opened.fileno())

    write_atomically(file, write)
    return str(file)


def _check_room(name: str, size: int, free: float, place: str, cure: str) -> None:
    if size > _SHARE * free:
        raise ConfigError(
            f"data.cache: the pictures of {name} would take {size / GB:.2f} GB, more than 80 % of the "
            f"{free / GB:.2f} GB free {place}; {cure}"
        )


def _key(paths: Sequence[str], resize: Resize) -> str:
    """16 hexadecimal digits over what the bytes of a cache depend on."""
    library = torchvision.__version__ if resize.kind == "tensor" else PIL.__version__
    digest = hashlib.sha256(f"{VERSION} {resize.kind} {resize.interpolation} {library}\n".encode())
    for path in paths:
        try:
            status = os.stat(path)
            facts = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            facts = "missing"  # which reading it says in full
        digest.update(os.fsencode(f"{'/'.join(Path(path).parts[-2:])} {facts}\n"))
    return digest.hexdigest()[:16]
