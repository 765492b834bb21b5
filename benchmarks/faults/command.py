"""`tools/faults.py`: every fault many times, and a table of what held."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch

from benchmarks.faults import inputs
from benchmarks.faults.tally import Tally, table
from benchmarks.faults.trainings import Trainings
from occplug.datasets.synthocc import build
from occplug.experiments.markdown import replace_marked
from occplug.utils.files import user_path
from occplug.utils.measuring import machine

__all__ = ["main"]

CONFIGS = ("clip_reid_synthocc", "dpm_synthocc")


def main(argv: list[str]) -> None:
    """Parse `argv`, do the faults, print the table; exits with 1 if something did not hold."""
    parser = argparse.ArgumentParser("faults.py", description="Fault injection: what holds, of how many trials.")
    parser.add_argument("--quick", action="store_true", help="a twentieth of the inputs, one training of each kind")
    parser.add_argument("--kills", type=int, default=20, help="signals of each kind in each stage of each method (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the first trial; the next has the next (0)")
    parser.add_argument("--page", type=user_path, metavar="FILE", help="also put the table between the marks in FILE")
    args = parser.parse_args(argv)
    tallies = []
    for tally in trials(1 if args.quick else args.kills, 20 if args.quick else 1, args.seed, args.quick):
        print(tally.row(), flush=True)
        tallies.append(tally)
        _write(args, tallies, "the command was stopped here, or is running")
    print(f"\n{table(tallies)}")
    _write(args, tallies, "complete")
    if any(tally.failed for tally in tallies):
        sys.exit(1)


def _write(args: argparse.Namespace, tallies: list[Tally], state: str) -> None:
    """Put the table into the page after each kind: a full run takes hours."""
    if args.page:
        seeds = f"seeds from {args.seed}, --kills {args.kills}{' --quick' * args.quick}, {state}"
        replace_marked(args.page, "faults", f"{machine()}; {seeds}\n\n{table(tallies)}")


def trials(kills: int, divisor: int, seed: int, quick: bool = False):
    """All trials, a :class:`Tally` a kind."""
    yield inputs.configs(500 // divisor, seed)
    yield inputs.command_lines(500 // divisor, seed)
    yield inputs.checkpoints(300 // divisor, seed)
    yield inputs.pictures(300 // divisor, seed)
    cv2.setNumThreads(1)  # before the fork: a child that inherits OpenCV's threads waits for ever
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        build(root, "tiny", workers=1, progress=False)
        for config in CONFIGS[:1] if quick else CONFIGS:
            yield from _of_trainings(Trainings(config, root, Path(name) / config), kills, seed, quick)


def _of_trainings(trainings: Trainings, kills: int, seed: int, quick: bool) -> Iterator[Tally]:
    stages = trainings.stages[-1:] if quick else trainings.stages
    for stage in stages:
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            yield trainings.signalled(stage, number, kills if number == signal.SIGKILL else max(1, kills // 4), seed)
    yield trainings.full_disk(max(1, kills // 4), seed)
    yield trainings.two_at_once(max(1, kills // 10), seed)
    yield trainings.lost_worker(max(1, kills // 4), seed)
