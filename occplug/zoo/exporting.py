"""Finished runs of one config become figures of its zoo entry, and one of them a small checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from occplug.config import load_config
from occplug.config.files import flatten
from occplug.data.versions import other_versions
from occplug.errors import ConfigError, DataError
from occplug.utils.files import file_sha256
from occplug.utils.texts import read_json
from occplug.zoo.index import FIGURES, NOT_RECORDED, Checkpoint, Entry, Index, Made, Measured, Run

__all__ = ["LIMIT", "LIMIT_TOGETHER", "FinishedRun", "measured", "read_metrics", "read_runs", "with_file"]

LIMIT, LIMIT_TOGETHER = 8_000_000, 60_000_000  # bytes of a checkpoint in the repository, and of all
# keys that move no figure, or that are recorded elsewhere
PRIVATE = {"custom_imports", "data.root", "data.save_dir", "data.workers", "train.seed"}
PRIVATE |= {"run.threads", "run.resume", "run.save_every", "run.page", "run.logger"}
METRICS = ("seed", "protocol", "targets", "stages", "data")  # what every run's has
_UNKNOWN = {"machine": NOT_RECORDED, "revision": NOT_RECORDED, "sources": NOT_RECORDED, "versions": {}}


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


def read_runs(folders: Sequence[Path], entry: Entry) -> list[FinishedRun]:
    """The runs in `folders`, by seed, checked to be seeds of one config of `entry`.

    Raises:
        DataError: a folder without a finished run or with a damaged one, or runs on different versions of a data set.
        ConfigError: another model or data, a mere test, two of one seed, or several configs.
    """
    runs = []
    for folder in folders:
        if not (folder / "metrics.json").is_file() or not (folder / "config.yaml").is_file():
            raise DataError(f"{folder} holds no finished run: it needs metrics.json and config.yaml of occplug train")
        runs.append(FinishedRun(folder, read_metrics(folder), load_config(folder / "config.yaml")))
    runs.sort(key=lambda run: run.cfg.train.seed)
    for run in runs:
        if (run.cfg.model.name, run.cfg.data.targets) != (entry.method, [entry.data]):
            what = f"{run.cfg.model.name} on {', '.join(run.cfg.data.targets)}"
            raise ConfigError(f"{run.folder} is a run of {what}, not {entry.name}")
        if "tested" in run.metrics or not run.metrics["stages"]:
            raise ConfigError(f"{run.folder} only tested weights of another run; export the run that trained them")
        if public(run.cfg) != public(runs[0].cfg):
            differing = ", ".join(key for key, value in public(run.cfg).items() if public(runs[0].cfg)[key] != value)
            raise ConfigError(f"{run.folder} and {runs[0].folder} are runs of different configs: {differing}")
        _check_same_data(run, runs[0])
    seeds = [run.cfg.train.seed for run in runs]
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"two runs have the same train.seed among {seeds}")
    return runs


def _check_same_data(run: FinishedRun, first: FinishedRun) -> None:
    before, now = first.metrics["data"], run.metrics["data"]
    for name in [*other_versions(before, now), *(now.keys() ^ before.keys())]:
        raise DataError(
            f"{run.folder} and {first.folder} used different versions of {name}, so they are no seeds of one row; "
            "leave one out, or train it again"
        )


def read_metrics(folder: Path) -> dict:
    """`metrics.json` of the run in `folder`. Raises DataError if it is damaged."""
    file = folder / "metrics.json"
    cure = "delete it, and the run is tested again"
    try:
        metrics = read_json(file)
    except ValueError as error:
        raise DataError(f"{file} is damaged ({error}); {cure}") from error
    if not isinstance(metrics, dict) or (missing := [key for key in METRICS if key not in metrics]):
        problem = f"lacks {', '.join(missing)}" if isinstance(metrics, dict) else "holds no figures"
        raise DataError(f"{file} is damaged ({problem}); {cure}")
    return metrics


def public(cfg: CfgNode) -> dict[str, object]:
    """Dotted keys and values of `cfg`, but for those that move no figure, and the seed."""
    return {key: value for key, value in flatten(cfg) if key not in PRIVATE}


def measured(runs: list[FinishedRun], entry: Entry, base: CfgNode, command: str) -> Measured:
    """What the index keeps of `runs`. What a run did not record is said to be so."""
    of_config = public(base)
    return Measured(
        command=command,
        protocol=runs[0].metrics["protocol"],
        config={key: value for key, value in public(runs[0].cfg).items() if of_config.get(key) != value},
        data=runs[0].metrics["data"],
        made=_made(runs),
        runs=tuple(_run(run, entry.data) for run in runs),
    )


def _made(runs: list[FinishedRun]) -> tuple[Made, ...]:
    """Each kind of machine and code once, with the seeds it made."""
    kinds: list[tuple[dict, list[int]]] = []
    for run in runs:
        record = run.metrics.get("record", {})
        facts = {key: record.get(key, unknown) for key, unknown in _UNKNOWN.items()}
        seeds = next((seeds for kind, seeds in kinds if kind == facts), None)
        if seeds is None:
            kinds.append((facts, seeds := []))
        seeds.append(run.cfg.train.seed)
    return tuple(Made(tuple(seeds), **kind) for kind, seeds in kinds)


def _run(run: FinishedRun, target: str) -> Run:
    seconds = sum(stage["seconds"] for stage in run.metrics["stages"])
    figures = {key: round(run.metrics["targets"][target][key], 6) for key in FIGURES}
    record = run.metrics.get("record", {})
    date, memory = record.get("date", NOT_RECORDED), record.get("memory_mib")
    return Run(run.cfg.train.seed, date, round(seconds / 60, 1), memory, figures)


def with_file(index: Index, entry: Entry, path: Path, seed: int) -> Entry:
    """`entry` with the small file `path` as its checkpoint.

    Raises:
        ConfigError: the file, or all files of the index with it, are too large for the repository.
    """
    size = path.stat().st_size
    points = [e.checkpoint for e in index.entries.values() if e.name != entry.name]
    others = [point.size or 0 for point in points if point is not None and point.file]
    for size_of, limit, what in ((size, LIMIT, str(path)), (size + sum(others), LIMIT_TOGETHER, "all checkpoints")):
        if size_of > limit:
            raise ConfigError(
                f"{what} would take {size_of / 1e6:.1f} MB, more than the {limit / 1e6:.0f} MB the repository allows; "
                "leave the weights out with --no-weights"
            )
    place = path.relative_to(index.file.parent).as_posix()
    point = Checkpoint("occplug", file=place, sha256=file_sha256(path), size=size, seed=seed)
    return dataclasses.replace(entry, checkpoint=point)
