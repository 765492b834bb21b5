"""Writing checkpoints while the next epoch trains."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from occplug.engine.checkpoint import save_checkpoint

__all__ = ["Saver", "snapshot"]

log = logging.getLogger(__name__)


class Saver:
    """Writes checkpoints one at a time, each whole or not at all, if wanted in a thread.

    The thread is none that ends with the program: an interrupted run first finishes the file it writes.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, state: dict, path: Path, waits: bool = True) -> None:
        """Write `state` to `path`, after what is being written.

        Args:
            waits: until it is written; else a copy of its tensors on the CPU is, and the call returns at once.

        Raises:
            OutputError: this file could not be written, or, without `waits`, the one before it.
        """
        self.join()
        if waits:
            save_checkpoint(state, path)
            return
        self._thread = threading.Thread(target=self._write, args=(snapshot(state), path), name="occplug-saver")
        self._thread.start()

    def _write(self, state: dict, path: Path) -> None:
        try:
            save_checkpoint(state, path)
        except BaseException as error:  # raised where the run can react to it
            self._error = error

    def join(self) -> None:
        """Wait for what is being written. Raises OutputError if it could not be."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """After the block nothing is being written, however it was left; its error goes before that of writing."""
        try:
            yield
        except BaseException:
            try:
                self.join()
            except Exception as error:
                log.error("%s", error)
            raise
        self.join()


def snapshot(value: Any) -> Any:
    """`value` with copies on the CPU in place of its tensors, in dicts, lists and tuples; what was shared stays so."""
    return _copied(value, {})


def _copied(value: Any, made: dict[tuple, Tensor]) -> Any:
    if isinstance(value, Tensor):
        place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if place not in made or not value.numel():
            made[place] = value.detach().to("cpu", copy=True)
        return made[place]
    if isinstance(value, dict):
        return {key: _copied(entry, made) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(entry, made) for entry in value)
    return value
