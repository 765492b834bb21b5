"""Loops over pixels, compiled by numba.

Compiling takes half a minute, once on a machine, since its result is kept on disk; to import numba and read that takes
two seconds in each process. So loops are compiled only where many pictures are about to be loaded: from :func:`start`
on, in this process and in those it forks. Before that, and where numba is not installed or does not compile, callers
take another way, whose results are the same to the bit.
"""

from __future__ import annotations

import functools
import logging
import time
import types
from collections.abc import Callable
from typing import Any

__all__ = ["Loop", "loop", "start"]

log = logging.getLogger(__name__)
WORTH = 1000  # pictures; a compiled loop saves about a millisecond in three of them
SLOW = 4.0  # seconds; loops that are read from disk take half of that
_LOOPS: list[Loop] = []


class Loop:
    """A function of arrays, to be called where `ready`; it may call loops that stand before it in its file.

    Attributes:
        plain: the function itself, which gives the same in Python, many times slower.
    """

    def __init__(self, plain: Callable, signature: str):
        self.plain, self.signature = plain, signature
        self._compiled: Callable | None = None

    @property
    def ready(self) -> bool:
        """Whether it is compiled."""
        return self._compiled is not None

    def __call__(self, *args):
        """Run it on arrays of exactly the types of its signature."""
        assert self._compiled is not None, "to be asked for where it is ready"
        return self._compiled(*args)

    def compile(self, numba: Any) -> None:
        """Compile it, or read what an earlier process compiled."""
        options = {"nogil": True, "error_model": "numpy"}
        # loops that it calls are those before it in its file, compiled by now
        called = {name: each._compiled for name, each in self.plain.__globals__.items() if isinstance(each, Loop)}
        plain = types.FunctionType(self.plain.__code__, {**self.plain.__globals__, **called}, self.plain.__name__)
        try:
            self._compiled = numba.njit(self.signature, cache=True, **options)(plain)
        except RuntimeError:  # neither the package's folder nor the user's cache can be written
            self._compiled = numba.njit(self.signature, **options)(plain)
        except Exception as error:  # whatever a compiler meets on a machine: there is another way
            log.info(
                "numba does not compile %s here (%s: %s), which stays slower",
                self.plain.__name__,
                type(error).__name__,
                error,
            )


def loop(signature: str) -> Callable[[Callable], Loop]:
    """Decorator: a function that is compiled for arguments of numba's `signature` when :func:`start` asks for it."""

    def made(plain: Callable) -> Loop:
        _LOOPS.append(Loop(plain, signature))
        if _started.cache_info().currsize:
            _compile(_LOOPS[-1:])
        return _LOOPS[-1]

    return made


def start(pictures: int) -> None:
    """Compile loops, if `pictures`, the number about to be loaded, are worth the wait. Once a process; before it forks
    others, so that they have them, too."""
    if pictures >= WORTH and not _started.cache_info().currsize:
        _started()
        _compile(_LOOPS)


@functools.cache
def _started() -> Any:
    """Numba; None where it is not installed, or switched off."""
    try:
        import numba
    except ImportError:
        log.info("numba is not installed; images load faster with it: pip install numba")
        return None
    return None if getattr(numba.config, "DISABLE_JIT", False) else numba


def _compile(loops: list[Loop]) -> None:
    numba, started, said = _started(), time.monotonic(), False
    for each in loops if numba is not None else ():
        each.compile(numba)
        if time.monotonic() - started > SLOW and not said:
            log.info("loops over pixels are compiled, once on this machine; it takes about half a minute")
            said = True
