"""What the trials of a kind came to."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Tally", "table"]


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


def table(tallies: list[Tally]) -> str:
    """A Markdown table, and what did not hold below it."""
    rows = ["| fault | it holds if | held / tried |", "|---|---|---|", *(tally.row() for tally in tallies)]
    failed = [f"* {line}" for tally in tallies for line in tally.failed]
    return "\n".join([*rows, "", *(failed or ["Nothing failed."])])
