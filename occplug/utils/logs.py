"""What more than one module does with its log."""

from __future__ import annotations

import functools
import logging

__all__ = ["warn_once"]


@functools.cache
def warn_once(log: logging.Logger, message: str) -> None:
    """Log a warning, the same one once in a process: data sets are built, and configs read, several times in a run."""
    log.warning("%s", message)
