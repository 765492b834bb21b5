"""Losses and learning rates of a run, as its loggers wrote them."""

from __future__ import annotations

import contextlib
import csv
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

__all__ = ["Curves", "read_curves"]

log = logging.getLogger(__name__)

POINTS = 300  # of a curve; more are averaged
_TIMES = ("time", "data")  # what torchreid logs beside losses and rates


@dataclass(frozen=True)
class Curves:
    """One stage.

    Args:
        stage: its name.
        losses: name -> (steps, values).   rates: as losses, learning rates.
    """

    stage: str
    losses: dict[str, tuple[np.ndarray, np.ndarray]]
    rates: dict[str, tuple[np.ndarray, np.ndarray]]


def read_curves(run: Path) -> list[Curves]:
    """The stages of the run in folder `run`, in the order in which they were trained; empty if nothing was logged.

    Reads `tensorboard/STAGE/` or, where there is none, `logs/STAGE.csv`.
    """
    found = []
    for name, scalars in [*_of_tensorboard(run / "tensorboard")] or [*_of_csv(run / "logs")]:
        kept = {key.removeprefix("Train/"): values for key, values in scalars.items() if key.startswith("Train/")}
        rates = {key: _thinned(*values) for key, values in kept.items() if key.startswith("lr")}
        losses = {key: _thinned(*v) for key, v in kept.items() if key not in rates and key not in _TIMES}
        if losses or rates:
            found.append(Curves(name, losses, rates))
    return found


def _of_tensorboard(folder: Path) -> Iterator[tuple[str, dict]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stages = [path for path in folder.iterdir() if any(path.glob("events.*"))] if folder.is_dir() else []
    for stage in sorted(stages, key=lambda path: min(file.name for file in path.glob("events.*"))):
        events = EventAccumulator(str(stage), size_guidance={"scalars": 0})
        logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every restart
        events.Reload()
        scalars = {}
        for tag in events.Tags()["scalars"]:
            rows = events.Scalars(tag)
            scalars[tag] = (np.array([row.step for row in rows]), np.array([row.value for row in rows]))
        yield stage.name, scalars


def _of_csv(folder: Path) -> Iterator[tuple[str, dict]]:
    files = [*folder.glob("*.csv")] if folder.is_dir() else []
    for file in sorted(files, key=lambda path: path.stat().st_mtime):
        values: dict[str, dict[int, float]] = {}
        with file.open(newline="", encoding="utf-8", errors="replace") as stream:
            for row in csv.reader(stream.read().replace("\0", "").splitlines()):
                with contextlib.suppress(ValueError):  # the head, and lines that a full disk or a kill has cut
                    step, name, value = row
                    values.setdefault(name, {})[int(step)] = float(value)  # of a step made again the last one
        yield file.stem, {name: (np.array([*found]), np.array([*found.values()])) for name, found in values.items()}


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means over at most POINTS runs of neighbouring steps."""
    order = np.argsort(steps, kind="stable")
    groups = np.array_split(order, min(POINTS, len(order)))
    return np.array([steps[g].mean() for g in groups]), np.array([values[g].mean() for g in groups])
