"""A progress bar around a loader, with the running losses beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice

from tqdm import tqdm

__all__ = ["Progress"]


class Progress:
    """An iterable with the loader's length that shows a bar, rate, ETA and the losses given to `show`.

    Args:
        loader: any iterable with a length.
        title: text before the bar.
        limit: stop after this many batches (dry runs); None for all.
        shows: whether there is a bar; one process of several shows it.
    """

    def __init__(self, loader, title: str, limit: int | None = None, shows: bool = True):
        self.loader = loader
        self.title = title
        self.limit, self.shows = limit, shows
        self._bar: tqdm | None = None

    def __len__(self) -> int:
        return len(self.loader) if self.limit is None else min(self.limit, len(self.loader))

    def __iter__(self) -> Iterator:
        quiet = not self.shows or not sys.stderr.isatty()
        batches = islice(self.loader, len(self))
        with tqdm(batches, self.title, len(self), leave=False, disable=quiet, dynamic_ncols=True) as self._bar:
            yield from self._bar

    def show(self, values: dict[str, float]) -> None:
        """Show `values` beside the bar."""
        if self._bar is not None:
            self._bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()}, refresh=False)
