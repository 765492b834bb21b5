"""What a key may be, declared beside its default: `choices` and `ranges` of methods and transforms, and of the core.

    class MyMethod(Method):
        defaults = {"neck": "before", "margin": 0.3, "train": {"epochs": 60, "weights": {"loss_id": 1.0}}}
        choices = {"neck": ("before", "after")}
        ranges = {"margin": (0, None), "train.epochs": (0, None), "train.weights": (0, None)}

Keys are relative to the section of the class, and a section stands for every number below it. Values are the two ends
(None: no end), or a :class:`Range`. :mod:`occplug.config.checks` enforces both; null passes where it is allowed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["ABOVE_0", "ANGLE", "AT_LEAST_0", "AT_LEAST_1", "BELOW_1", "SHARE", "Range", "under"]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless it says otherwise; None: no end on that side.

    Args:
        above, below: leave the low, the high end out.
        text: what messages call it; by default made from the ends.
    """

    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False
    text: str = ""

    @classmethod
    def of(cls, declared: Range | tuple) -> Range:
        """`declared` itself, or the range between its two ends."""
        return declared if isinstance(declared, Range) else cls(*declared)

    def __contains__(self, number: float) -> bool:
        is_low = self.low is None or (number > self.low if self.above else number >= self.low)
        is_high = self.high is None or (number < self.high if self.below else number <= self.high)
        return is_low and is_high

    def __str__(self) -> str:
        if self.text:
            return self.text
        if self.low is not None and self.high is not None and not (self.above or self.below):
            return f"from {self.low} to {self.high}"
        ends = [] if self.low is None else [f"{'above' if self.above else 'at least'} {self.low}"]
        ends += [] if self.high is None else [f"{'below' if self.below else 'at most'} {self.high}"]
        return " and ".join(ends)


AT_LEAST_0, AT_LEAST_1 = Range(0), Range(1)
ABOVE_0 = Range(0, above=True)
BELOW_1 = Range(0, 1, below=True)
SHARE = Range(0, 1)
ANGLE = Range(0, math.pi / 2, text="from 0 to pi / 2 (radians)")


def under(section: str, table: dict) -> dict:
    """`table` of declarations with its keys in `section`."""
    return {f"{section}.{key}": value for key, value in table.items()}
