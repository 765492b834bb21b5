"""Writing files whole or not at all, and by one process at a time."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

from occplug.errors import TrainingError

__all__ = ["hold", "write_atomically"]


def hold(file: Path) -> IO | None:
    """An open handle on the empty file `file`, which no other process can hold until it is closed.

    Returns: None if another process holds it. Where the system knows no such locks, nobody is kept out.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = file.open("w")
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        return None
    except (ImportError, OSError):  # Windows; some network disks
        pass
    return handle


def write_atomically(path: Path, write) -> None:
    """Call `write(temporary path)` and move the result to `path`; on any failure `path` is as it was.

    Raises:
        TrainingError: the disk is full or the folder cannot be written; names the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        # torch's zip writer reports a failed write as a RuntimeError without errno, so ask the disk itself
        reason = "no space left on the disk" if _disk_is_full(error, path.parent) else str(error)
        kept = "the previous file is untouched" if path.exists() else "nothing was left behind"
        raise TrainingError(f"{path} could not be written: {reason}; {kept}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _disk_is_full(error: BaseException, folder: Path) -> bool:
    chain = [error, error.__cause__, error.__context__]
    if any(isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT) for e in chain):
        return True
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize < 1 << 20
