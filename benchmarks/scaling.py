"""Training steps on 1 and 2 processes of this machine, and in micro-batches.

Each row is a run of its own under torchrun, one thread a process: CLIP-ReID's second stage on the embedded tiny CLIP
with generated images, batches of 8 identities times 4. A step is the whole of it: loading, both passes, exchange,
update. Times are medians of a step, on the clock and of one process's processor; where other work takes the cores, the
latter says what a step costs. Memory is the largest process's peak, libraries included.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.comparison import Rows
from occplug.utils.measuring import MIB, peak_memory

__all__ = ["scaling"]

BATCH, INSTANCES, IDENTITIES = 32, 4, 64
MARK = "measured"
ROOT = Path(__file__).parents[1]
SIDES = ((1, 0), (2, 0), (1, 8))  # processes and micro-batch (0: none)


def scaling(quick: bool) -> Rows:
    """A training step on one process, on two, and on one in micro-batches of 8."""
    rows: list[list[str]] = []
    first = None
    for world, micro in SIDES:
        wall, cpu, memory = _row(world, micro, 2 if quick else 6)
        first = first or (wall, cpu)
        shares = [f"{wall:.2f}", f"x{first[0] / wall:.2f}", f"{cpu:.2f}", f"x{first[1] / cpu:.2f}", f"{memory:,.0f}"]
        rows.append([f"{world}", f"{micro or 'none'}", *shares])
    heads = ("processes", "micro-batch", "s per step", "of one", "CPU s of a process", "of one", "MiB of a process")
    note = "medians of a step, loading and exchange included; other programs take part of the clock's seconds"
    return Rows(f"scaling: CLIP-ReID's second stage, tiny CLIP, {BATCH} images a step", heads, rows, note)


def _row(world: int, micro: int, steps: int) -> tuple[float, ...]:
    """Median seconds of a step on the clock and of the processor, and peak memory in MiB, of `world` processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    command += ["-m", "benchmarks.scaling", str(micro), str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, cwd=ROOT)
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith(MARK)]
    return tuple(max(map(float, values)) for values in zip(*lines))


def _measure(micro: int, steps: int) -> None:
    from occplug.config import default_config
    from occplug.data.manager import GeneratedDataManager
    from occplug.distributed import join_ranks
    from occplug.engine import seed_everything
    from occplug.runs.session import build_engine

    torch.set_num_threads(1)
    options = [
        "method.prompts", False, "train.batch_size", BATCH, "sampler.num_instances", INSTANCES, "train.micro_batch",
        micro, "sampler.train_sampler", "identity", "data.workers", 0, "backbone.weights", "none",
    ]  # fmt: skip
    with join_ranks() as ranks, tempfile.TemporaryDirectory() as folder:
        cfg = default_config("clip_reid", "clip_vit_tiny", options)
        seed_everything(1)
        data = GeneratedDataManager(cfg, IDENTITIES, 4)
        engine = build_engine(cfg, data, Path(folder), torch.device("cpu"), pretrained=False)
        times: list[tuple[float, float]] = []
        step = engine.forward_backward

        def timed(batch: dict) -> dict:
            values = step(batch)
            times.append((time.perf_counter(), time.process_time()))
            if len(times) == steps + 3:
                raise StopIteration
            return values

        engine.forward_backward = timed
        engine.test = lambda **options: 0.0
        try:
            engine.run_stages()
        except StopIteration:
            pass
        wall, cpu = (
            statistics.median(later - earlier for earlier, later in zip(clock[2:], clock[3:])) for clock in zip(*times)
        )
        for line in ranks.objects(f"{MARK} {wall} {cpu} {peak_memory() / MIB}"):
            if ranks.is_main:
                print(line)


if __name__ == "__main__":  # a process of one row
    _measure(int(sys.argv[1]), int(sys.argv[2]))
