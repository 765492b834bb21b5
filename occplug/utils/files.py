"""Paths that a user gives, writing files and folders whole or not at all, and checksums."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError

from occplug.errors import OutputError

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where a folder in use cannot be deleted anyway
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "check_text",
    "clear_leftovers",
    "file_sha256",
    "is_text",
    "plain_name",
    "read_whole",
    "user_path",
    "write_atomically",
]

T = TypeVar("T")
READINGS = 100  # of a file that is replaced each time
_BLOCK = 1 << 20
_LEFTOVER = re.compile(r"\..+\.\d+\.part")


def user_path(path: str | bytes | os.PathLike) -> Path:
    """`path` as a user means it: `~` and `~name` at its start are home folders. All paths that users give come here."""
    return Path(os.path.expanduser(os.fsdecode(path)))


def check_text(path: str | os.PathLike) -> None:
    """Raise OutputError if the name `path` is not text: torch, safetensors, ONNX and TensorBoard write no such files.

    Images, and lists of them, may have any name.
    """
    if not is_text(path):
        name = os.fsencode(path).decode(errors="backslashreplace")
        raise OutputError(f"{name}: the name is not text in UTF-8; choose another, or rename the folder")


def is_text(path: str | os.PathLike) -> bool:
    """Whether the name is text in UTF-8; on most systems any bytes can be a name."""
    return not re.search("[\ud800-\udfff]", os.fspath(path))


def plain_name(text: str) -> str:
    """A file name for `text`: the same where it is one of letters, digits, `_`, `-` and `.`, else cut and hashed."""
    if re.fullmatch(r"[\w.-]{1,100}", text):
        return text
    ending = re.sub(r"[^\w.-]+", "_", text)[-60:].strip("._")
    return f"{ending}_{zlib.crc32(os.fsencode(text)):08x}"


def file_sha256(path: str | os.PathLike) -> str:
    """The file's SHA-256 in hexadecimal digits; reads it in blocks."""
    digest = hashlib.sha256()  # hashlib.file_digest is of Python 3.11
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read_whole(path: str | os.PathLike, read: Callable[[Path], T]) -> T:
    """`read(path)` of one version of a file that :func:`write_atomically` may replace meanwhile: again if it did.

    A reader that opens a file twice, as safetensors does for the header and for the tensors, may else mix two versions.

    Raises: OSError if the file is replaced during each of many readings; whatever `read` raised on a file that stayed.
    """
    path = Path(path)
    for _ in range(READINGS):
        version = _version(path)
        try:
            found = read(path)
        except Exception:
            if version == _version(path):
                raise
            continue
        if version == _version(path):
            return found
    raise OSError("it is replaced faster than it can be read")


def _version(path: Path) -> tuple[int, ...]:
    """What differs between two files of one path."""
    state = path.stat()
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


def write_atomically(path: str | os.PathLike, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)` and move the file or folder it makes to `path`; on any failure `path` is as it was.

    Where `path` is a link, the link stays, and what it leads to is replaced; a replaced file's mode is kept. What
    killed processes left beside `path` is removed (:func:`clear_leftovers`).

    Args:
        path: a folder must be absent or empty, or it cannot be replaced.

    Raises:
        OutputError: no space is left, no permission, or something is in the way, such as a device; names `path`.
    """
    given = user_path(path)
    path = Path(os.path.realpath(given))
    if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
        kind = "a link in a circle" if path.is_symlink() else "a device or a pipe"
        raise OutputError(f"{given} could not be written: it is {kind}; name a regular file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_once(path.parent, os.getpid())
        with _workplace(path) as folder:
            write(folder / path.name)
            if path.is_file():
                shutil.copymode(path, folder / path.name)
            os.replace(folder / path.name, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors report a failed write without its errno, so `_disk_is_full` asks the disk itself
        raise OutputError(f"{given} could not be written: {_reason(error, path.parent)}; {_kept(path)}") from error


@contextlib.contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """A folder beside `path`, locked so that others see that its writer is alive, whichever machine they are on."""
    folder = path.with_name(f".{path.name}.{os.getpid()}.part")
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier process of this number
    descriptor = None
    try:
        while descriptor is None:
            folder.mkdir()
            descriptor = _locked(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor:
            os.close(descriptor)


def _locked(folder: Path) -> int | None:
    """A descriptor that holds the lock of `folder` (0 without locks); None if somebody holds it or has removed it."""
    if fcntl is None:
        return 0
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = folder.exists()
    except BlockingIOError:
        free = False
    except OSError:  # a file system without locks
        free = True
    if free:
        return descriptor
    os.close(descriptor)
    return None


def clear_leftovers(folder: Path) -> list[Path]:
    """Delete what killed processes left of :func:`write_atomically` in `folder`; what is being written stays.

    Returns: what was deleted.
    """
    gone = []
    with contextlib.suppress(OSError):
        for name in sorted(filter(_LEFTOVER.fullmatch, os.listdir(folder))):
            left = Path(folder, name)
            descriptor = _locked(left)
            if descriptor is None:
                continue
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
            gone.append(left)
            if descriptor:
                os.close(descriptor)
    return gone


@functools.lru_cache(maxsize=1024)  # once a process and folder: a folder may hold 100,000 masks
def _clear_once(folder: Path, process: int) -> None:
    clear_leftovers(folder)


def _reason(error: Exception, folder: Path) -> str:
    if _disk_is_full(error, folder):
        return "no space left on the disk"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _kept(path: Path) -> str:
    if path.is_file():
        return "the previous file is untouched"
    return "nothing was left behind"


def _disk_is_full(error: BaseException, folder: Path) -> bool:
    chain = [error, error.__cause__, error.__context__]
    if any(isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT) for e in chain):
        return True
    if "No space left" in str(error):  # what safetensors makes of it
        return True
    if not folder.is_dir():
        return False
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize < 1 << 20
