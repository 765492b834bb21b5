"""Trainings that are killed, interrupted, crowded or short of disk, each in a forked process of its own.

A run of few epochs on SynthOcc tiny is the reference. A trial starts the same run, does the fault to it, goes on with
`--resume`, and holds if weights and figures are those of the reference to the bit.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.faults.tally import Tally
from occplug.cli import main as occplug
from occplug.config import load_config
from occplug.config.files import flatten
from occplug.engine import MethodEngine, load_checkpoint

__all__ = ["Trainings"]

_fork = multiprocessing.get_context("fork")
_PATIENCE = 120.0  # seconds for one process
_STARTED = "started.txt"  # in a run's folder: the stages begun so far


class Trainings:
    """Trials with the method of one config.

    Args:
        config: its name.   root: where the data sets are.   folder: for runs; emptied.
    """

    def __init__(self, config: str, root: Path, folder: Path):
        self.config, self.root, self.folder = config, root, folder
        known = dict(flatten(load_config(config)))
        epochs = [key for key, value in known.items() if key.startswith("method.") and key.endswith("epochs") and value]
        self.options = ["synthocc.size", "tiny", "data.workers", "0", "train.batch_size", "16", "test.batch_size", "64"]
        self.options += [word for key in epochs for word in (key, "2")]
        self.reference = self.run("reference")
        if self.reference.exitcode != 0:
            raise RuntimeError(f"the reference run failed:\n{self.told('reference')[-2000:]}")
        self.stages = [record["name"] for record in self.metrics("reference")["stages"]]
        self.seconds = {record["name"]: record["seconds"] for record in self.metrics("reference")["stages"]}

    # ------------------------------------------------------------------ one run

    def start(self, run: str, *options: str, before: Callable[[], None] | None = None):
        """A process that trains in the folder `run`; `before` is called in it first."""
        folder = self.folder / run
        folder.mkdir(parents=True, exist_ok=True)
        words = ["train", "--config-file", self.config, "--root", str(self.root), *options, *self.options]
        process = _fork.Process(target=_train, args=(folder, [*words, "data.save_dir", str(folder)], before))
        process.start()
        return process

    def run(self, run: str, *options: str, before: Callable[[], None] | None = None):
        """As `start`, and waits for its end."""
        process = self.start(run, *options, before=before)
        _end(process)
        return process

    def told(self, run: str) -> str:
        """What the processes of `run` printed."""
        return (self.folder / run / "printed.txt").read_text(errors="replace")

    def metrics(self, run: str) -> dict:
        """Its metrics.json."""
        return json.loads((self.folder / run / "metrics.json").read_text())

    def problem(self, run: str) -> str | None:
        """Go on with `run` until its end; None if it is then as the reference is."""
        has_state = (self.folder / run / "checkpoints" / "last.pth").exists()
        if not (self.folder / run / "metrics.json").exists():
            process = self.run(run, *(["--resume"] if has_state else []))
            if process.exitcode != 0:
                return f"it does not go on (exit {process.exitcode}): {_last_line(self.told(run))}"
        left = [str(file.name) for file in (self.folder / run).rglob(".*.part")]
        if left:
            return f"left behind: {left[0]}"
        if self.metrics(run)["targets"] != self.metrics("reference")["targets"]:
            return "other figures than without the fault"
        ours, theirs = (
            load_checkpoint(self.folder / each / "checkpoints" / f"{self.stages[-1]}.pth")["state_dict"]
            for each in (run, "reference")
        )
        return None if all(torch.equal(ours[name], theirs[name]) for name in theirs) else "other weights"

    def forget(self, run: str) -> None:
        """Delete the folder of `run`."""
        shutil.rmtree(self.folder / run, ignore_errors=True)

    # ------------------------------------------------------------------ trials

    def signalled(self, stage: str, number: signal.Signals, count: int, seed: int) -> Tally:
        """The run gets the signal `number` at a random moment of `stage`."""
        tally = Tally(f"{self.config}: {number.name} in {stage}", "it goes on to the same bits")
        for trial in range(seed, seed + count):
            run, draw = f"{number.name}-{stage}-{trial}", random.Random(trial)
            process = self.start(run)
            begun = self.folder / run / _STARTED
            while process.is_alive() and not (begun.exists() and stage in begun.read_text().split()):
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 1.1 * self.seconds[stage]))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
            tally.add(trial, _end(process) or _traceback(self.told(run)) or self.problem(run))
            self.forget(run)
        return tally

    def full_disk(self, count: int, seed: int) -> Tally:
        """No file may be longer than a random size, as on a full disk; then the limit is lifted."""
        tally = Tally(f"{self.config}: files are limited in size", "one message, and it goes on to the same bits")
        largest = max(file.stat().st_size for file in (self.folder / "reference").rglob("*.pth"))
        for trial in range(seed, seed + count):
            run, limit = f"disk-{trial}", random.Random(trial).randrange(4096, largest)
            process = self.run(run, before=lambda limit=limit: _limit(limit))
            told = None if process.exitcode in (0, 2) else f"exit {process.exitcode}: {_last_line(self.told(run))}"
            tally.add(trial, told or _traceback(self.told(run)) or self.problem(run))
            self.forget(run)
        return tally

    def two_at_once(self, count: int, seed: int) -> Tally:
        """A second process trains in the same folder."""
        tally = Tally(f"{self.config}: two processes in one folder", "one trains, the other is refused")
        for trial in range(seed, seed + count):
            run = f"two-{trial}"
            both = [self.start(run)]
            time.sleep(random.Random(trial).uniform(0, 1))
            both.append(self.start(run))
            ended = [_end(process) for process in both]
            codes = sorted(process.exitcode for process in both)
            told = None if codes == [0, 2] else f"exits {codes}"
            tally.add(trial, next(filter(None, ended), None) or told or _traceback(self.told(run)) or self.problem(run))
            self.forget(run)
        return tally

    def lost_worker(self, count: int, seed: int) -> Tally:
        """A process that loads images is killed."""
        tally = Tally(f"{self.config}: a loading process is killed", "one message, and it goes on to the same bits")
        for trial in range(seed, seed + count):
            run, draw = f"worker-{trial}", random.Random(trial)
            process = self.start(run, before=_two_workers)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            while process.is_alive() and not (found := _read(children).split()):
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 1))
            with contextlib.suppress(ProcessLookupError, IndexError):
                os.kill(int(draw.choice(found)), signal.SIGKILL)
            told = _end(process)
            if told is None and process.exitcode not in (0, 2):
                told = f"exit {process.exitcode}: {_last_line(self.told(run))}"
            tally.add(trial, told or _traceback(self.told(run)) or self.problem(run))
            self.forget(run)
        return tally


# ---------------------------------------------------------------------- in the process that trains

_WORKERS: list[str] = []  # options of a trial, set in its own process


def _two_workers() -> None:
    _WORKERS[:] = ["data.workers", "2"]


def _limit(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _train(folder: Path, words: list[str], before: Callable[[], None] | None) -> None:
    """`occplug WORDS`, with what it prints in a file, and the names of stages in another as they begin."""
    printed = os.open(folder / "printed.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, 1), os.dup2(printed, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    run_stage = MethodEngine.run_stage

    def noted(engine, *args, **options):
        with (folder / _STARTED).open("a") as file:
            file.write(f"{engine.stage_name}\n")
        return run_stage(engine, *args, **options)

    MethodEngine.run_stage = noted
    if before is not None:
        before()
    code = occplug([*words, *_WORKERS])
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


# ---------------------------------------------------------------------- after it


def _end(process) -> str | None:
    """Wait for `process`; None if it ended by itself."""
    process.join(_PATIENCE)
    if not process.is_alive():
        return None
    process.kill()
    process.join()
    return f"it hung for {_PATIENCE:.0f} s"


def _traceback(told: str) -> str | None:
    return f"a traceback: {_last_line(told)}" if "Traceback (most recent call last)" in told else None


def _last_line(told: str) -> str:
    lines = told.strip().splitlines()
    return lines[-1][:160] if lines else "nothing was printed"


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
