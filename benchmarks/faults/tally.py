"""What the trials of a kind came to, and the file that keeps it between calls of the command."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from occplug.errors import DataError

__all__ = ["Results", "Tally", "table"]


@dataclass
class Tally:
    """Trials of one kind.

    Args:
        name: what was done.   held: what a trial must show.
        tried: number of trials.   failed: "seed N: what happened" of those that did not hold.
    """

    name: str
    held: str
    tried: int = 0
    failed: list[str] = field(default_factory=list)

    def add(self, seed: int, problem: str | None) -> None:
        """Count the trial `seed`; `problem` is None if it held."""
        self.tried += 1
        if problem is not None:
            self.failed.append(f"{self.name}, seed {seed}: {problem}")

    def row(self) -> str:
        """The row of the table."""
        return f"| {self.name} | {self.held} | {self.tried - len(self.failed)} / {self.tried} |"


@dataclass(frozen=True)
class _Line:
    """Trials with the seeds from `first` on, made on `machine` with the code `sources`."""

    name: str
    held: str
    first: int
    tried: int
    failed: list[str]
    machine: str
    date: str
    sources: str


class Results:
    """Trials of all calls of the command: each kind's, in the order in which the kinds were first tried.

    Args:
        file: one line of JSON for each call of `add`, read first; None keeps nothing.

    Raises:
        DataError: a line of the file is damaged.
    """

    def __init__(self, file: Path | None, machine: str, date: str, sources: str):
        self.file, self.made = file, {"machine": machine, "date": date, "sources": sources}
        self.lines: list[_Line] = []
        for number, line in enumerate(file.read_text().splitlines() if file and file.exists() else [], 1):
            try:
                self.lines.append(_Line(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise DataError(f"{file}, line {number} is damaged ({error}); delete it") from error

    def has(self, name: str, seed: int) -> bool:
        """Whether the trial `seed` of the kind `name` is there."""
        return any(line.name == name and 0 <= seed - line.first < line.tried for line in self.lines)

    def add(self, tally: Tally, first: int) -> None:
        """Append the trials of `tally`, which have the seeds from `first` on."""
        line = _Line(tally.name, tally.held, first, tally.tried, tally.failed, **self.made)
        self.lines.append(line)
        if self.file is not None:
            with self.file.open("a") as stream:
                stream.write(json.dumps(asdict(line)) + "\n")

    def tallies(self) -> list[Tally]:
        """One for each kind."""
        found: dict[str, Tally] = {}
        for line in self.lines:
            tally = found.setdefault(line.name, Tally(line.name, line.held))
            tally.tried += line.tried
            tally.failed += line.failed
        return list(found.values())

    def made_on(self) -> str:
        """Machines, dates and code of all trials."""
        dates = sorted({line.date for line in self.lines})
        machines = "; ".join(dict.fromkeys(line.machine for line in self.lines))
        return f"{machines}; {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}"


def table(tallies: list[Tally]) -> str:
    """A Markdown table, and what did not hold below it."""
    rows = ["| fault | it holds if | held / tried |", "|---|---|---|", *(tally.row() for tally in tallies)]
    failed = [f"* {line}" for tally in tallies for line in tally.failed]
    return "\n".join([*rows, "", *(failed or ["Nothing failed."])])
