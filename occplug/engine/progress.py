"""How a training goes, as one live panel on a terminal; where there is no terminal, the log's lines say it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import islice

import torch
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from occplug.utils.measuring import MIB, peak_memory

__all__ = ["Progress"]


class Progress:
    """An iterable with the loader's length that shows a panel: stage and epoch, a bar, the losses given to `show`,
    images a second, the time that is left, and memory.

    Args:
        loader: any iterable with a length.
        title: text above the bar.
        limit: stop after this many batches (dry runs); None for all.
        shows: whether there is a panel; one process of several shows it.
        epochs_left: epochs of the stage after this one, for the time that is left.
        console: where the panel goes; stderr if not given.
    """

    def __init__(
        self,
        loader,
        title: str,
        limit: int | None = None,
        shows: bool = True,
        epochs_left: int = 0,
        console: Console | None = None,
    ):
        self.loader, self.title = loader, title
        self.limit, self.epochs_left = limit, epochs_left
        self.console = console or Console(stderr=True)
        self.shows = shows and (console is not None or sys.stderr.isatty())
        self._values: dict[str, float] = {}
        self._batches, self._images, self._start = 0, 0, 0.0

    def __len__(self) -> int:
        return len(self.loader) if self.limit is None else min(self.limit, len(self.loader))

    def __iter__(self) -> Iterator:
        batches = islice(self.loader, len(self))
        if not self.shows:
            yield from batches
            return
        self._start = time.perf_counter()
        with Live(
            get_renderable=self.panel,
            console=self.console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,  # what torchreid prints goes to the log already
            redirect_stderr=False,
        ):
            for batch in batches:
                yield batch
                self._batches += 1
                self._images += len(batch["img"]) if isinstance(batch, dict) and "img" in batch else 0

    def show(self, values: dict[str, float]) -> None:
        """Show `values` in the panel."""
        self._values = values

    def panel(self) -> Panel:
        """What is shown now."""
        spent, done, total = time.perf_counter() - self._start, self._batches, len(self)
        facts = {name: f"{value:.4f}" for name, value in self._values.items()}
        if done:
            facts["left"] = f"{_clock(spent * (total - done) / done)}, stage {_clock(self._of_stage(spent))}"
        if self._images:
            facts["images/s"] = f"{self._images / max(spent, 1e-9):.1f}"
        facts["memory"] = f"{_memory() / MIB:.0f} MiB"
        grid = Table.grid(padding=(0, 2))
        for name, value in facts.items():
            grid.add_row(Text(name, style="dim"), Text(value))
        bar = ProgressBar(total=max(total, 1), completed=done, width=40)
        count = Text(f"batch {done} of {total}", style="dim")
        rows = Table.grid()  # a group would put the count behind the bar, which ends no line, and cut it off
        for row in (bar, count, grid):
            rows.add_row(row)
        return Panel(rows, title=Text(self.title), title_align="left", expand=False)

    def _of_stage(self, spent: float) -> float:
        """Seconds until the stage's last step, at the speed of this epoch."""
        each = spent / self._batches
        return each * (len(self) - self._batches + self.epochs_left * len(self))


def _memory() -> int:
    """Bytes at the peak: on the GPU where there is one, else of the process."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
