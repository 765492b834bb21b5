"""Processes and what they wait for: children that end with their parent, and locks that say who holds them."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

__all__ = ["end_with_parent", "held", "holder_of"]

log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1  # of Linux's prctl
_LOOK_EVERY = 1.0  # seconds, where the system does not send a signal


def end_with_parent() -> None:
    """From here on this process ends when the one that started it has ended, however that ended (`kill -9`, too).

    A child of `multiprocessing` calls it at its start. Linux ends it by a signal; elsewhere a thread looks each second.
    """
    starter, parent = os.getppid(), multiprocessing.parent_process()
    if sys.platform == "linux" and (parent is None or parent.pid == starter):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != starter:  # it ended before this was set
            os._exit(1)
    else:  # also below a fork server, which lives as long as its children
        threading.Thread(target=_watch, args=(starter, parent), daemon=True).start()


def _watch(starter: int, parent) -> None:
    while os.getppid() == starter and (parent is None or parent.is_alive()):
        time.sleep(_LOOK_EVERY)
    os._exit(1)


def holder_of(lock: Path) -> str:
    """Who holds the lock file `lock`, in words: its process, machine and since when."""
    try:
        holder = json.loads(_note(lock).read_text(encoding="utf-8"))
        return f"process {int(holder['pid'])} on {holder['host']}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that does not say which it is"


@contextlib.contextmanager
def held(lock: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `lock` inside; a killed holder's lock is free.

    Args:
        what: what it is held for, for the message while waiting, e.g. "rendering log/synthocc".
        wait: wait for whoever holds it, and log who that is.

    Raises:
        filelock.Timeout: another process holds it, and `wait` is off.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = FileLock(lock)
    try:
        file.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
        log.warning("waiting for %s, by %s (lock %s)", what, holder_of(lock), lock)
        file.acquire()
    try:
        with contextlib.suppress(OSError):  # only a note
            _note(lock).write_text(json.dumps(_myself()), encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            _note(lock).unlink(missing_ok=True)
        file.release()


def _note(lock: Path) -> Path:
    """Beside the lock: its own content is lost whenever somebody asks for it."""
    return lock.with_name(f"{lock.name}.holder")


def _myself() -> dict:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
