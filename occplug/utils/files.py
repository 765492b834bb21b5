"""Writing files whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from occplug.errors import TrainingError

__all__ = ["write_atomically"]


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
