"""Writing files and folders whole or not at all, and checksums."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError

from occplug.errors import OutputError

__all__ = ["file_sha256", "write_atomically"]

_BLOCK = 1 << 20


def file_sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal digits; reads it in blocks."""
    digest = hashlib.sha256()  # hashlib.file_digest is of Python 3.11
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)` and move the file or folder it makes to `path`; on any failure `path` is as it was.

    Args:
        path: a folder must be absent or empty, or it cannot be replaced.

    Raises:
        OutputError: no space is left, no permission, or something is in the way; names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors report a failed write without its errno, so `_disk_is_full` asks the disk itself
        raise OutputError(f"{path} could not be written: {_reason(error, path.parent)}; {_kept(path)}") from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        elif temporary.exists():
            temporary.unlink()


def _reason(error: Exception, folder: Path) -> str:
    if _disk_is_full(error, folder):
        return "no space left on the disk"
    return getattr(error, "strerror", None) or str(error)


def _kept(path: Path) -> str:
    if path.is_file():
        return "the previous file is untouched"
    return "nothing was left behind"


def _disk_is_full(error: BaseException, folder: Path) -> bool:
    chain = [error, error.__cause__, error.__context__]
    if any(isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT) for e in chain):
        return True
    if not folder.is_dir():
        return False
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize < 1 << 20
