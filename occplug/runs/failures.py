"""What the machine does to a run, said in a sentence: a killed reading process, a full disk, no memory."""

from __future__ import annotations

import contextlib
import errno
import logging
import signal
import sys
import threading
from collections.abc import Iterator

import torch

from occplug.errors import OutputError, TrainingError, first_line

__all__ = ["LogFile", "failures_named"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_GO_ON = "go on with --resume, if it was a training"


@contextlib.contextmanager
def failures_named(folder) -> Iterator[None]:
    """Raise the errors of torch and the system that a user can do something about as ours; others pass.

    Args:
        folder: of the run, for the message.

    Raises:
        TrainingError: a process that reads images has ended, or no memory is left on the GPU.
        OutputError: the disk is full. (TensorBoard writes from a thread of its own, without naming the file.)
    """
    try:
        with _full_disks_of_threads_untold():
            yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{folder}: no memory is left on the GPU ({first_line(error)}); lower train.batch_size or "
            f"test.batch_size; {_GO_ON}"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        if _is_of_a_reader(error):
            _silence_torch()
            raise TrainingError(
                f"{folder}: a process that reads images has ended ({first_line(error)}): killed, or out of memory or "
                f"of shared memory (/dev/shm); lower data.workers or train.batch_size; {_GO_ON}"
            ) from error
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            raise OutputError(
                f"{folder}: a file of the run could not be written: {error.strerror}; free some space; {_GO_ON}"
            ) from error
        raise


@contextlib.contextmanager
def _full_disks_of_threads_untold() -> Iterator[None]:
    """No traceback of a thread whose disk is full: TensorBoard's raises it again where the next value is added."""
    before = threading.excepthook

    def told(args) -> None:
        if not (isinstance(args.exc_value, OSError) and args.exc_value.errno in _FULL):
            before(args)

    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = before


def _is_of_a_reader(error: Exception) -> bool:
    """Whether a loading process is gone: torch says so wherever the main thread is, or the way to it is cut."""
    if isinstance(error, RuntimeError):
        return "DataLoader worker" in str(error)
    cut = isinstance(error, (ConnectionError, EOFError))
    return cut or (isinstance(error, FileNotFoundError) and error.filename is None)


def _silence_torch() -> None:
    """Torch raises again for every look at the dead process, in the middle of whatever runs then: once is enough."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


class LogFile(logging.FileHandler):
    """A log file that says once on stderr that it cannot be written, in place of a traceback for every line."""

    said = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Called by logging while the error is handled."""
        if not self.said:
            self.said = True
            sys.stderr.write(f"{self.baseFilename} could not be written: {sys.exc_info()[1]}\n")
