"""`tools/faults.py`: every fault many times, and a table of what held."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import torch

from benchmarks.faults import inputs
from benchmarks.faults.tally import Results, Tally, table
from benchmarks.faults.trainings import Trainings, can_mount
from occplug.datasets.synthocc import build
from occplug.experiments.markdown import replace_marked
from occplug.runs.record import sources
from occplug.utils.files import user_path
from occplug.utils.measuring import machine

__all__ = ["main"]

CONFIGS = ("clip_reid_synthocc", "dpm_synthocc")
PARTS = ("inputs", "kill", "terminate", "interrupt", "limit", "disk", "two", "worker")
_SIGNALS = {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "interrupt": signal.SIGINT}
_SAME = "it goes on to the same bits"
_TOLD = f"one message, and {_SAME}"


@dataclass(frozen=True)
class _Kind:
    """Trials with the seeds `first` to `first + count - 1`; `attempt` returns what did not hold, or None."""

    name: str
    held: str
    count: int
    attempt: Callable[[int], str | None]


def main(argv: list[str]) -> None:
    """Parse `argv`, do the faults, print the table; exits with 1 if something did not hold."""
    parser = argparse.ArgumentParser("faults.py", description="Fault injection: what holds, of how many trials.")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the inputs, one training of each kind")
    parser.add_argument("--kills", type=int, default=20, help="signals of each kind in each stage of each method (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; the next has the next (0)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="these alone")
    parser.add_argument("--configs", nargs="+", default=CONFIGS, metavar="NAME", help="whose trainings are disturbed")
    text = "append each trial to FILE.jsonl; those that are there are not tried again, and the table has them too"
    parser.add_argument("--results", type=user_path, metavar="FILE", help=text)
    parser.add_argument("--page", type=user_path, metavar="FILE", help="also put the table between the marks in FILE")
    args = parser.parse_args(argv)
    results = Results(args.results, machine(with_load=False), time.strftime("%Y-%m-%d"), sources())
    try_all(args, results)
    _write(args, results)  # also where nothing was left to try
    print(f"\n{table(results.tallies())}")
    if any(tally.failed for tally in results.tallies()):
        sys.exit(1)


def try_all(args: argparse.Namespace, results: Results) -> None:
    """All trials of `args` that `results` lacks; the page follows each, as a full run takes hours."""
    divisor = 20 if args.quick else 1
    if "inputs" in args.parts:
        for damage, count in _INPUTS.items():
            if not results.has(inputs.NAMES[damage], args.seed):
                _note(args, results, damage(count // divisor, args.seed), args.seed)
    parts = [part for part in PARTS[1:] if part in args.parts and (part != "disk" or can_mount())]
    if not parts:
        return
    cv2.setNumThreads(1)  # before the fork: a child that inherits OpenCV's threads waits for ever
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        build(root, "tiny", workers=1, progress=False)
        for config in args.configs[:1] if args.quick else args.configs:
            trainings = Trainings(config, root, Path(name) / config)
            for kind in kinds(trainings, parts, 1 if args.quick else args.kills, args.quick):
                _try(args, results, kind)


_INPUTS = {inputs.configs: 500, inputs.command_lines: 500, inputs.checkpoints: 300, inputs.pictures: 300}


def _try(args: argparse.Namespace, results: Results, kind: _Kind) -> None:
    for seed in range(args.seed, args.seed + kind.count):
        if not results.has(kind.name, seed):
            tally = Tally(kind.name, kind.held)
            tally.add(seed, kind.attempt(seed))
            _note(args, results, tally, seed)


def _note(args: argparse.Namespace, results: Results, tally: Tally, first: int) -> None:
    results.add(tally, first)
    print(next(each.row() for each in results.tallies() if each.name == tally.name), *tally.failed, flush=True)
    _write(args, results)


def _write(args: argparse.Namespace, results: Results) -> None:
    if args.page and results.lines:
        replace_marked(args.page, "faults", f"{results.made_on()}\n\n{table(results.tallies())}")


def kinds(trainings: Trainings, parts: list[str], kills: int, quick: bool = False) -> Iterator[_Kind]:
    """What is done to the trainings of one config: signals in each stage, then the rest."""
    few, config = max(1, kills // 4), trainings.config
    for stage in trainings.stages[-1:] if quick else trainings.stages:
        for part in [part for part in parts if part in _SIGNALS]:
            number = _SIGNALS[part]
            count = kills if part == "kill" else few
            attempt = partial(trainings.signalled, stage, number)
            yield _Kind(f"{config}: {number.name} in {stage}", _SAME, count, attempt)
    rest = {
        "limit": _Kind(f"{config}: files are limited in size", _TOLD, few, trainings.limited),
        "disk": _Kind(f"{config}: a full disk (tmpfs)", _TOLD, few, trainings.full_disk),
        "two": _Kind(
            f"{config}: two processes in one folder",
            "one trains, the other is refused",
            max(1, kills // 10),
            trainings.two_at_once,
        ),
        "worker": _Kind(f"{config}: a loading process is killed", _TOLD, few, trainings.lost_worker),
    }
    yield from (kind for part, kind in rest.items() if part in parts)
