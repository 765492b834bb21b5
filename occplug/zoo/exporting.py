"""Finished runs of one config become figures of its zoo entry, and one of them a small checkpoint."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from occplug.config import load_config
from occplug.config_files import flatten
from occplug.errors import ConfigError, DataError
from occplug.zoo.download import file_sha256
from occplug.zoo.index import FIGURES, Checkpoint, Entry, Index, Measured, Run

__all__ = ["LIMIT", "LIMIT_TOGETHER", "FinishedRun", "measured", "read_runs", "with_file"]

LIMIT, LIMIT_TOGETHER = 8_000_000, 60_000_000  # bytes of a checkpoint in the repository, and of all
# keys that move no figure, or that are told elsewhere
PRIVATE = {"data.root", "data.save_dir", "data.workers", "train.seed", "run.threads", "run.resume", "run.save_every"}
_UNKNOWN = {"date": "not recorded", "machine": "not recorded", "revision": "not recorded", "versions": {}}


@dataclass(frozen=True)
class FinishedRun:
    """A folder with `metrics.json`, its content, its config, and the checkpoint of its last stage."""

    folder: Path
    metrics: dict
    cfg: CfgNode

    @property
    def checkpoint(self) -> Path:
        """The last stage's, or, if the run has been cleaned up, the resumable state."""
        folder = self.folder / "checkpoints"
        named = folder / f"{self.metrics['stages'][-1]['name']}.pth"
        return named if named.is_file() else folder / "last.pth"


def read_runs(folders: list[Path], entry: Entry, base: CfgNode) -> list[FinishedRun]:
    """The runs in `folders`, by seed, checked to be seeds of one config of `entry`.

    Args:
        base: the entry's own config.

    Raises:
        DataError: a folder without a finished run; ConfigError: another model or data, two of one seed, or several
            configs.
    """
    runs = []
    for folder in folders:
        if not (folder / "metrics.json").is_file() or not (folder / "config.yaml").is_file():
            raise DataError(f"{folder} holds no finished run: it needs metrics.json and config.yaml of tools/train.py")
        runs.append(FinishedRun(folder, json.loads((folder / "metrics.json").read_text()), _config(folder)))
    runs.sort(key=lambda run: run.cfg.train.seed)
    for run in runs:
        if (run.cfg.model.name, run.cfg.data.targets) != (entry.method, [entry.data]):
            what = f"{run.cfg.model.name} on {', '.join(run.cfg.data.targets)}"
            raise ConfigError(f"{run.folder} is a run of {what}, not {entry.name}")
        if public(run.cfg) != public(runs[0].cfg):
            differing = ", ".join(key for key, value in public(run.cfg).items() if public(runs[0].cfg)[key] != value)
            raise ConfigError(f"{run.folder} and {runs[0].folder} are runs of different configs: {differing}")
    seeds = [run.cfg.train.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"two runs have the same train.seed among {seeds}")
    return runs


def _config(folder: Path) -> CfgNode:
    return load_config(folder / "config.yaml")


def public(cfg: CfgNode) -> dict[str, object]:
    """Dotted keys and values of `cfg`, but for those that move no figure, and the seed."""
    return {key: value for key, value in flatten(cfg) if key not in PRIVATE}


def measured(runs: list[FinishedRun], entry: Entry, base: CfgNode, command: str) -> Measured:
    """What the index keeps of `runs`. What a run did not record is said to be so."""
    last = {**_UNKNOWN, **runs[-1].metrics.get("record", {})}
    own = public(base)
    return Measured(
        command=command,
        date=last["date"],
        machine=last["machine"],
        revision=last["revision"],
        versions=last["versions"],
        protocol=runs[0].metrics["protocol"],
        config={key: value for key, value in public(runs[0].cfg).items() if own.get(key) != value},
        data=runs[0].metrics["data"],
        runs=tuple(_run(run, entry.data) for run in runs),
    )


def _run(run: FinishedRun, target: str) -> Run:
    seconds = sum(stage["seconds"] for stage in run.metrics["stages"])
    figures = {key: round(run.metrics["targets"][target][key], 6) for key in FIGURES}
    memory = run.metrics.get("record", {}).get("memory_mib")
    return Run(run.cfg.train.seed, round(seconds / 60, 1), memory, figures)


def with_file(index: Index, entry: Entry, path: Path, seed: int) -> Entry:
    """`entry` with the small file `path` as its checkpoint.

    Raises:
        ConfigError: the file, or all files of the index with it, are too large for the repository.
    """
    size = path.stat().st_size
    others = [e.checkpoint.size or 0 for e in index.entries.values() if e.name != entry.name and index.path_of(e)]
    for found, limit, what in ((size, LIMIT, str(path)), (size + sum(others), LIMIT_TOGETHER, "all checkpoints")):
        if found > limit:
            raise ConfigError(
                f"{what} would take {found / 1e6:.1f} MB, more than the {limit / 1e6:.0f} MB the repository allows; "
                "leave the weights out with --no-weights"
            )
    place = path.relative_to(index.file.parent).as_posix()
    point = Checkpoint("occplug", file=place, sha256=file_sha256(path), size=size, seed=seed)
    return dataclasses.replace(entry, checkpoint=point)
