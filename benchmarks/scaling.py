"""Training steps on 1, 2, ... processes of this machine: `python -m benchmarks.scaling [--ranks 1 2] [--micro 8]`.

Each row is a run of its own under torchrun, one thread a process: CLIP-ReID's second stage on the embedded tiny CLIP
with generated images, batches of 8 identities times 4. A step is the whole of it: loading, both passes, exchange,
update. Times are medians of a step, on the clock and of one process's processor; where other work takes the cores, the
latter says what a step costs. Memory is the largest process's peak, libraries included.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from occplug.config import default_config
from occplug.data.manager import GeneratedDataManager
from occplug.distributed import join_ranks
from occplug.engine import seed_everything
from occplug.runs.session import build_engine
from occplug.utils.measuring import MIB, machine, peak_memory

__all__ = ["main"]

BATCH, INSTANCES, IDENTITIES = 32, 4, 64
MARK = "measured"


def main(argv: list[str] | None = None) -> None:
    """Print the table, or, as a process of one row, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of processes")
    parser.add_argument("--micro", type=int, nargs="*", default=[8], help="train.micro_batch of rows on one process")
    parser.add_argument("--steps", type=int, default=6, help="steps of each row, after two that are not counted")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)  # micro-batch of this process
    args = parser.parse_args(argv)
    if args.measure is not None:
        _measure(args.measure, args.steps)
        return
    rows = [(world, 0) for world in args.ranks] + [(1, micro) for micro in args.micro]
    print(f"{machine()}\n")
    print(
        "| processes | micro-batch | s per step | of one process | CPU s per step and process | of one process | MiB |"
    )
    print("|---|---|---|---|---|---|---|")
    first = None
    for world, micro in rows:
        wall, cpu, memory = _row(world, micro, args.steps)
        first = first or (wall, cpu)
        shares = f"{wall:.2f} | x{first[0] / wall:.2f} | {cpu:.2f} | x{first[1] / cpu:.2f} | {memory:.0f}"
        print(f"| {world} | {micro or 'none'} | {shares} |", flush=True)


def _row(world: int, micro: int, steps: int) -> tuple[float, ...]:
    """Median seconds of a step on the clock and of the processor, and peak memory in MiB, of `world` processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    command += ["-m", "benchmarks.scaling", "--measure", str(micro), "--steps", str(steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith(MARK)]
    return tuple(max(map(float, values)) for values in zip(*lines))


def _measure(micro: int, steps: int) -> None:
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


if __name__ == "__main__":
    main()
