"""CPU time, wall time and peak memory of a piece of work, each measured in a process of its own."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from occplug.errors import OccplugError
from occplug.utils.processes import end_with_parent

__all__ = ["Figures", "free_memory", "machine", "measured", "peak_memory", "processor", "reset_peak", "room_ahead"]

STATUS = Path("/proc/self/status")
MIB, GIB, GB = 2**20, 2**30, 1e9


@dataclass
class Figures:
    """What a piece of work took.

    Args:
        cpu: seconds of processor time, all threads of the process.
        wall: seconds on the clock.
        memory: MiB at the peak, beside what was held before the work began.
        output: what the work returned.
    """

    cpu: float
    wall: float
    memory: float
    output: object


def measured(prepare: Callable, *args, repeats: int = 1) -> Figures:
    """The best of `repeats` runs of `prepare(*args)()` on one thread in a new process; only the call is measured.

    Args:
        prepare: a function of a module's top level that returns the work, a function without arguments.
        args: its arguments; these and the output go through pickle.
        repeats: times are the least over the runs, memory is the first run's.
    Raises: OccplugError if the system ended the process; whatever the work raised.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn, initializer=_start_process) as pool:
        try:
            return pool.submit(_measure, prepare, args, repeats).result()
        except BrokenProcessPool as error:
            raise OccplugError(
                f"the system ended {prepare.__name__.strip('_')} while it was measured, probably for lack of memory; "
                "try --quick"
            ) from error


def _start_process() -> None:
    end_with_parent()
    torch.set_num_threads(1)


def _measure(prepare: Callable, args: tuple, repeats: int) -> Figures:
    work = prepare(*args)
    gc.collect()
    reset_peak()
    before, peaks, runs = _memory_now(), [], []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        output = work()
        runs.append((time.process_time() - cpu, time.perf_counter() - wall))
        peaks.append(peak_memory())
    return Figures(min(run[0] for run in runs), min(run[1] for run in runs), max(peaks[0] - before, 0) / MIB, output)


def _memory_now() -> int:
    return _status("VmRSS") or peak_memory()


def peak_memory() -> int:
    """Bytes this process has held at most, since the start or :func:`reset_peak`."""
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def reset_peak() -> None:
    """Lower the recorded peak to what is held now, where the system can; what preparing took may else count."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int | None:
    """An entry of Linux's process status, in bytes; None elsewhere."""
    if not STATUS.exists():
        return None
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(f"{key}:")]
    return int(line.split()[1]) * 1024


def free_memory() -> float:
    """MiB that can be used without swapping; infinite where the system does not say."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return float("inf")
    (line,) = [line for line in info.read_text().splitlines() if line.startswith("MemAvailable:")]
    return int(line.split()[1]) / 1024


def room_ahead() -> float:
    """Bytes that what is made ahead of loading may take: 1 GB, or a tenth of the free memory where that is less."""
    return min(GB, MIB * free_memory() / 10)


def machine(with_load: bool = True) -> str:
    """One line: processor, cores, versions, and what is of this moment, load and date."""
    versions = f"python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}"
    if not with_load:
        return f"{processor()}, {os.cpu_count()} cores; one thread; {versions}"
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{processor()}, {os.cpu_count()} cores{load}; one thread; {versions}; {time.strftime('%Y-%m-%d')}"


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
