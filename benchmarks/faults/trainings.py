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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from occplug.cli import main as occplug
from occplug.config import load_config
from occplug.config.files import flatten
from occplug.engine import load_checkpoint
from occplug.engine.base import RunMixin

__all__ = ["Trainings", "can_mount"]

_fork = multiprocessing.get_context("fork")
_PATIENCE = 900.0  # seconds for one process; a loaded machine is slow
# beside a run's folder, whose disk may be full: the stages begun so far, and what was printed
_STARTED, _PRINTED = "started.txt", "printed.txt"


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
        self.options += ["data.height", "64", "data.width", "32"]  # a quarter of the patches
        # a torchreid model has one stage and no such keys
        self.options += [word for key in epochs or ["train.max_epoch"] for word in (key, "2")]
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
        return _beside(self.folder / run, _PRINTED).read_text(errors="replace")

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
        """Delete the files of `run`."""
        shutil.rmtree(self.folder / run, ignore_errors=True)
        for name in (_PRINTED, _STARTED):
            _beside(self.folder / run, name).unlink(missing_ok=True)

    # ------------------------------------------------------------------ trials: what did not hold, or None

    def signalled(self, stage: str, number: signal.Signals, seed: int) -> str | None:
        """The run gets the signal `number` at a random moment of `stage`."""
        delay, draw = 1.0, random.Random(seed)
        part = draw.uniform(0, 1)
        while True:  # again and earlier, if the run was faster than the reference and has ended before the signal
            run = f"{number.name}-{stage}-{seed}"
            process = self.start(run)
            begun = _beside(self.folder / run, _STARTED)
            while process.is_alive() and not (begun.exists() and stage in begun.read_text().split()):
                time.sleep(0.01)
            time.sleep(part * delay * self.seconds[stage])
            if process.is_alive() or delay < 0.1:
                break
            delay /= 2
            self.forget(run)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        problem = _end(process) or _traceback(self.told(run)) or self.problem(run)
        self.forget(run)
        return problem

    def limited(self, seed: int) -> str | None:
        """No file may be longer than a random size; then the limit is lifted."""
        largest = max(file.stat().st_size for file in (self.folder / "reference").rglob("*.pth"))
        run, limit = f"limit-{seed}", random.Random(seed).randrange(4096, largest)
        return self._told_once(run, self.run(run, before=lambda: _limit(limit)))

    def full_disk(self, seed: int) -> str | None:
        """The run's folder is on a disk of a random size, which fills up; then the disk grows. Needs `can_mount`."""
        needed = sum(file.stat().st_size for file in (self.folder / "reference").rglob("*") if file.is_file())
        run, size = f"disk-{seed}", random.Random(seed).randrange(200_000, needed)
        folder = self.folder / run
        folder.mkdir(parents=True)
        with _mounted(folder, size) as grow:
            process = self.run(run)
            grow()
            return self._told_once(run, process)

    def _told_once(self, run: str, process) -> str | None:
        """After a run that may have ended with a message."""
        told = None if process.exitcode in (0, 2) else f"exit {process.exitcode}: {_last_line(self.told(run))}"
        problem = told or _traceback(self.told(run)) or self.problem(run)
        self.forget(run)
        return problem

    def two_at_once(self, seed: int) -> str | None:
        """A second process trains in the same folder."""
        run = f"two-{seed}"
        both = [self.start(run)]
        time.sleep(random.Random(seed).uniform(0, 1))
        both.append(self.start(run))
        ended = [_end(process) for process in both]
        codes = sorted(process.exitcode for process in both)
        told = None if codes == [0, 2] else f"exits {codes}"
        problem = next(filter(None, ended), None) or told or _traceback(self.told(run)) or self.problem(run)
        self.forget(run)
        return problem

    def lost_worker(self, seed: int) -> str | None:
        """A process that loads images is killed."""
        run, draw = f"worker-{seed}", random.Random(seed)
        process = self.start(run, before=_two_workers)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.is_alive() and not (found := _read(children).split()):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 1))
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(int(draw.choice(found)), signal.SIGKILL)
        return _end(process) or self._told_once(run, process)


def can_mount() -> bool:
    """Whether this user may mount a tmpfs here."""
    with tempfile.TemporaryDirectory() as name:
        try:
            with _mounted(Path(name), 1 << 20):
                return True
        except (OSError, subprocess.SubprocessError):
            return False


@contextlib.contextmanager
def _mounted(folder: Path, size: int) -> Iterator[Callable[[], object]]:
    """A tmpfs of `size` bytes at `folder`; yields what makes it large."""
    _quietly("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder))
    try:
        yield lambda: _quietly("mount", "-o", "remount,size=1g", str(folder))
    finally:
        _quietly("umount", "--lazy", str(folder))


def _quietly(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


# ---------------------------------------------------------------------- in the process that trains

_WORKERS: list[str] = []  # options of a trial, set in its own process


def _two_workers() -> None:
    _WORKERS[:] = ["data.workers", "2"]


def _limit(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def _train(folder: Path, words: list[str], before: Callable[[], None] | None) -> None:
    """`occplug WORDS`, with what it prints in a file, and the names of stages in another as they begin."""
    printed = os.open(_beside(folder, _PRINTED), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, 1), os.dup2(printed, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    run_stage = RunMixin.run_stage

    def noted(engine, *args, **options):
        with _beside(folder, _STARTED).open("a") as file:
            file.write(f"{engine.stage_name}\n")
        return run_stage(engine, *args, **options)

    RunMixin.run_stage = noted
    if before is not None:
        before()
    code = occplug([*words, *_WORKERS])
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)


def _beside(folder: Path, name: str) -> Path:
    return folder.with_name(f"{folder.name}-{name}")


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
