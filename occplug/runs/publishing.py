"""Finished runs become an entry of the zoo: figures of every seed, and a small checkpoint of one."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from occplug.config import load_config
from occplug.errors import ConfigError
from occplug.runs.candidates import Candidate, config_path, entry_settings, save_small_file
from occplug.runs.evaluate import evaluate_candidate
from occplug.runs.session import start_logging
from occplug.utils.files import write_atomically
from occplug.zoo.exporting import FinishedRun, measured, read_runs, with_file
from occplug.zoo.index import Entry, Index
from occplug.zoo.verifying import compare
from occplug.zoo.weights import read_test_weights

__all__ = ["export_runs"]


def export_runs(
    index: Index,
    name: str,
    folders: Sequence[Path],
    trained_by: str = "",
    keeps_weights: bool = True,
    seed: int | None = None,
    options: Sequence[str] | None = None,
) -> list[str]:
    """Fill the entry `name` of `index` from the runs in `folders`, one a seed, and write it; returns lines to print.

    An older checkpoint of ours is removed, since its figures are no longer in the entry.

    Args:
        trained_by: the command that trained them; by default `tools/train.py` with the entry's config.
        keeps_weights: also write the checkpoint of one run into the index's folder.
        seed: of that run; by default the first.
        options: config keys and values for the evaluation that proves the small file; None: it is not evaluated.

    Raises:
        ConfigError: runs that do not belong together, a seed that none has, official weights that would be lost, or a
            small file that does not give its run's figures or is too large.
    """
    entry = index.find(name)
    older = index.path_of(entry)
    base = load_config(config_path(entry), entry_settings(entry, measured=False))
    runs = read_runs(folders, entry)
    ours = measured(runs, entry, base, trained_by or "python tools/train.py --config-file " + entry.config)
    entry = dataclasses.replace(entry, ours=ours, checkpoint=None if older is not None else entry.checkpoint)
    lines: list[str] = []
    if keeps_weights:
        entry, lines = _with_weights(index, entry, _run_of_seed(entry, runs, seed), options)
    index.put(entry)
    index.write()
    if older is not None and older != index.path_of(entry):
        older.unlink(missing_ok=True)
    return [*lines, f"{entry.name}: {len(runs)} seeds; now run: occplug zoo table"]


def _run_of_seed(entry: Entry, runs: list[FinishedRun], seed: int | None) -> FinishedRun:
    if entry.checkpoint is not None:
        raise ConfigError(f"{entry.name} has official weights, which would be lost; give --no-weights, or add an entry")
    seeds = [run.cfg.train.seed for run in runs]
    if seed is not None and seed not in seeds:
        raise ConfigError(f"--seed is {seed}, but the runs have the seeds {seeds}")
    return runs[0] if seed is None else runs[seeds.index(seed)]


def _with_weights(
    index: Index, entry: Entry, run: FinishedRun, options: Sequence[str] | None
) -> tuple[Entry, list[str]]:
    """The entry with the small checkpoint of `run`, which is written beside the index, and lines to print."""
    path, lines = index.file.parent / "checkpoints" / f"{entry.name.replace('/', '-')}.safetensors", []
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        save_small_file(made, run.cfg, read_test_weights(run.checkpoint), entry.name)
        if options is not None:
            lines = _check_figures(entry, run, made, Path(folder) / "replay", options)
        probe = dataclasses.replace(index, file=made.parent / "index.yaml")
        with_file(probe, entry, made, run.cfg.train.seed)  # refuses what is too large before anything is written
        write_atomically(path, lambda temporary: temporary.write_bytes(made.read_bytes()))
    return with_file(index, entry, path, run.cfg.train.seed), lines


def _check_figures(entry: Entry, run: FinishedRun, file: Path, folder: Path, options: Sequence[str]) -> list[str]:
    """Evaluate the small `file` in `folder` and compare it with its run's figures; returns lines to print."""
    cfg = load_config(run.folder / "config.yaml", ["data.save_dir", str(folder), *options])
    metrics = evaluate_candidate(Candidate(cfg, entry.config, read_test_weights(file)))
    start_logging()
    assert entry.ours is not None  # an entry is made of runs
    recorded = next(r for r in entry.ours.runs if r.seed == run.cfg.train.seed)
    finding = compare(entry, recorded, metrics, cfg, cfg)
    if not finding.passed:
        raise ConfigError(
            f"{entry.name}: the small file does not give the run's figures; nothing is written: "
            + "; ".join(finding.lines())
        )
    return finding.lines()
