"""Many training runs: the one way in which tables of several rows and seeds get their figures.

Each run is an ordinary training run in its own folder. One that is complete is read, one that was interrupted goes on,
so a command can be given again at any time. A run that only tests differently takes the weights of another.
"""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from yacs.config import CfgNode

from occplug.config import load_config
from occplug.config.custom import import_custom
from occplug.config.files import Setting, flatten
from occplug.data.manager import DataManager
from occplug.data.versions import other_versions
from occplug.errors import ConfigError, DataError, OccplugError, TrainingError
from occplug.evaluation import PerQuery, per_query_file, read_per_query
from occplug.method import build_method
from occplug.registry import model_class
from occplug.runs.candidates import Candidate
from occplug.runs.evaluate import evaluate_candidate
from occplug.runs.record import embedded
from occplug.runs.session import start_logging
from occplug.runs.train import train
from occplug.utils.files import file_sha256
from occplug.utils.processes import end_with_parent
from occplug.zoo.exporting import FinishedRun, public, read_metrics
from occplug.zoo.weights import read_test_weights

__all__ = [
    "KEPT",
    "RUN",
    "MissingRuns",
    "Row",
    "Run",
    "Training",
    "embedded_in",
    "known_runs",
    "made_on",
    "plan",
    "read_rows",
    "run_rows",
    "share",
]

log = logging.getLogger(__name__)

RUN = "${run}"  # in a row's settings: the folder of the run it builds on
KEPT = "kept.json"  # in the folder of a run whose weights are not there


@dataclass(frozen=True)
class Training:
    """One run to be made: a seed of a row, with its resolved config.

    Args:
        tests: the training whose weights this run tests in its own way, instead of training.
        after: the training whose stages this run builds on.
        placed: keys whose values name its folder.
        elsewhere: folder of a complete run of the same config, made for another table.
    """

    row: str
    seed: int
    cfg: CfgNode
    config_file: str
    tests: Training | None = None
    after: Training | None = None
    placed: tuple[str, ...] = ()
    elsewhere: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the run has its files."""
        return self.elsewhere or Path(self.cfg.data.save_dir)

    @property
    def needs(self) -> Training | None:
        """The training whose files this one reads."""
        return self.tests or self.after

    @property
    def weights(self) -> Path:
        """What the run's last stage ended with; the run has to be complete."""
        return FinishedRun(self.folder, self._metrics(), self.cfg).checkpoint

    def is_complete(self) -> bool:
        """Whether the folder holds this run with its final test.

        Raises:
            ConfigError: it holds a run of another config, or from other weights or occluders of the package.
        """
        exists = (self.folder / "metrics.json").exists()
        if (exists or self.can_resume()) and not self._is_of_this_config():
            raise ConfigError(f"{self.folder} holds a run of another config; delete it, or choose another folder")
        if exists:
            self._check_embedded()
        return exists and self._metrics().get("tested") == self._to_test()

    @property
    def embedded(self) -> dict[str, str]:
        """The package's files that move its figures (`occplug.runs.record.embedded`); a test has none, its run has."""
        return {} if self.tests else embedded(self.cfg)

    def _check_embedded(self) -> None:
        """Runs of early versions do not say what they started from, and are taken as before."""
        before = embedded_in(self._metrics())
        if before is not None and self.tests is None and before != self.embedded:
            names = sorted(name for name, _ in before.items() ^ self.embedded.items())
            raise ConfigError(
                f"{self.folder} holds a run made with another {' and '.join(dict.fromkeys(names))} than this version "
                "of occplug has, so its figures are others; delete it, or choose another folder"
            )

    def _metrics(self) -> dict:
        return read_metrics(self.folder)

    def _to_test(self) -> str | None:
        """SHA-256 of the weights that `tests` has now; None for a training."""
        return file_sha256(self.tests.weights) if self.tests and self.tests.is_complete() else None

    def _is_of_this_config(self) -> bool:
        # read again rather than compared as text: keys that came later stand at their defaults in an older run
        known = dict(flatten(self.cfg))  # folders may have moved since, or be spelt otherwise
        before = _config_of(self.folder, {key: known[key] for key in self.placed})
        return before is not None and _identity(before) == _identity(self.cfg)

    def is_of_this_root(self) -> bool:
        """Whether the run in the folder read its data sets from the same place, as far as paths tell."""
        before = _config_of(self.folder, {})
        if before is None or not before.data.root:  # a kept run's data lay anywhere
            return False
        return Path(before.data.root).absolute() == Path(self.cfg.data.root).absolute()

    def can_resume(self) -> bool:
        """Whether an interrupted run left a state to go on from."""
        return (self.folder / "checkpoints" / "last.pth").exists()


def embedded_in(metrics: dict) -> dict[str, str] | None:
    """The package's files that the run of `metrics` was made with; None if it does not say."""
    return metrics.get("record", {}).get("embedded")


def _identity(cfg: CfgNode) -> tuple[int, dict[str, object]]:
    """The seed, and all keys that move figures."""
    return cfg.train.seed, public(cfg)


def _config_of(folder: Path, settings: dict[str, object]) -> CfgNode | None:
    """The config of the run in `folder` with `settings` in place of its own; None if no version of today reads it."""
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8")
        return load_config(
            folder / "config.yaml", [word for setting in settings.items() for word in setting], text=text
        )
    except (ConfigError, OSError, UnicodeDecodeError):
        return None


@dataclass(frozen=True)
class Run:
    """The results of a complete run, figures as fractions in [0, 1], per target data set.

    Args:
        seconds: spent in training.
        protocol: how features were made and compared.
        fingerprints: which version of each data set was used.
        made: on what, with which torch and when; None if nothing was trained.
        code: hash of what computes in the package; None where a run of an early version does not say.
        folder: of its files; None if it has none.
    """

    seed: int
    seconds: float
    protocol: str
    figures: dict[str, dict]
    queries: dict[str, PerQuery]
    fingerprints: dict[str, str]
    made: str | None
    code: str | None = None
    folder: Path | None = None

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in `folder`. Raises DataError if its figures per query cannot be read."""
        metrics = read_metrics(folder)
        seconds = sum(stage["seconds"] for stage in metrics["stages"])
        queries = {target: read_per_query(per_query_file(folder, target)) for target in metrics["targets"]}
        fingerprints = {name: summary["fingerprint"] for name, summary in metrics["data"].items()}
        record = metrics.get("record")
        made, code = made_on(record), (record or {}).get("sources")
        about = (fingerprints, made, code, folder)
        return cls(metrics["seed"], seconds, metrics["protocol"], metrics["targets"], queries, *about)


def made_on(record: dict | None) -> str:
    """A run's machine, torch and date; runs of early versions have no record."""
    if record is None:
        return "machine not recorded"
    return f"{record['machine']}, torch {record['versions']['torch']}, {record['date']}"


@dataclass(frozen=True)
class Row:
    """One row of a table: a name without spaces, what is printed, and a run per seed."""

    name: str
    title: str
    runs: list[Run]


def plan(
    row: str, config_file, options: list, seeds: int, folder: Path, after: list[Training] | None = None
) -> list[Training]:
    """The trainings of `row`, seeds 1 to `seeds`, in `folder/row/seed<k>`.

    Args:
        after: the trainings they build on, one a seed; `Setting`s of `options` name its folder as `${run}`.

    Raises:
        ConfigError: fewer than one seed, or what `load_config` or the method's own parts object to.
    """
    if seeds < 1:
        raise ConfigError(f"--seeds is {seeds}, but a row needs at least 1")
    trainings = []
    for seed in range(1, seeds + 1):
        of_run = ["train.seed", seed, "data.save_dir", str(folder / row / f"seed{seed}")]
        source = after[seed - 1] if after else None
        cfg = load_config(config_file, [*(_placed(option, source) for option in options), *of_run])
        placed = tuple(option.key for option in options if source is not None and _names_run(option))
        trainings.append(Training(row, seed, cfg, str(config_file), after=source, placed=placed))
    _check_buildable(trainings[0])
    return trainings


def _placed(option, source: Training | None):
    """`option` with the folder of `source` in place of `${run}`."""
    if source is None or not _names_run(option):
        return option
    return replace(option, value=option.value.replace(RUN, str(source.folder)))


def _names_run(option) -> bool:
    return isinstance(option, Setting) and isinstance(option.value, str) and RUN in option.value


def _check_buildable(training: Training) -> None:
    """Parts of a method check options that the config cannot; a row should say so before others have trained."""
    try:
        _stage_names(training.cfg)
    except ConfigError as error:
        raise ConfigError(f"{training.row}: {error}") from error
    known: dict[str, Any] = dict(flatten(training.cfg))
    after = cast(Training, training.after)  # keys are `placed` below its folder; without it there are none
    wanted = [Path(known[key]) for key in training.placed]
    missing = [file.stem for file in wanted if file.stem not in _stage_names(after.cfg)]
    if missing:
        raise ConfigError(
            f"{training.row} builds on the stage {missing[0]} of {after.row}, which does not train it with "
            "these settings; leave out those that skip it or switch it off, or leave this row out with --rows"
        )


def _stage_names(cfg: CfgNode) -> list[str]:
    """What a run of `cfg` trains; none for torchreid's models, which have one stage without a name."""
    if model_class(cfg.model.name).is_stock:
        return []
    with torch.device("meta"):
        return [stage.name for stage in build_method(cfg, 2, 2, pretrained=False).stages()]


def known_runs(folder: Path) -> dict[str, Path]:
    """Complete trainings anywhere in `folder`: what moves their figures -> where the run is; for `share`."""
    known: dict[str, Path] = {}
    for metrics in sorted(folder.rglob("seed*/metrics.json")):
        if (metrics.parent / KEPT).exists():
            continue  # no weights, and perhaps a mere test
        cfg = _config_of(metrics.parent, {})
        try:
            content = read_metrics(metrics.parent)
        except OccplugError as error:  # another table's run must not stop this one
            log.warning("%s; passed over", error)
            continue
        if cfg is None or "tested" in content:
            continue
        if embedded_in(content) in (None, embedded(cfg)):
            known.setdefault(repr(_identity(cfg)), metrics.parent)
    return known


def share(planned: list[Training], known: dict[str, Path]) -> list[Training]:
    """`planned`, with runs of equal configs made once: those in `known`, else the first planned, which enters it."""
    return [_shared(training, known) for training in planned]


def _shared(training: Training, known: dict[str, Path]) -> Training:
    if training.tests is not None:
        return replace(training, tests=_shared(training.tests, known))
    first = known.setdefault(repr(_identity(training.cfg)), training.folder)
    if first == training.folder or training.is_complete() or training.can_resume():
        return training
    log.info("%s, seed %d is the run in %s", training.row, training.seed, first)
    return replace(training, elsewhere=first)


class MissingRuns(ConfigError):
    """Runs of a table that are not there, where nothing is to be trained.

    Args:
        missing: row -> its seeds without a complete run.
        complete: the rows that have all their runs.
        count: runs of the whole table.
    """

    def __init__(self, missing: dict[str, list[int]], complete: list[str], count: int):
        self.missing, self.complete = missing, complete
        named = "; ".join(f"{row}, seed {', '.join(map(str, seeds))}" for row, seeds in missing.items())
        short = sum(map(len, missing.values()))
        super().__init__(
            f"{short} of {count} runs are neither kept nor in their folders: {named}; without --no-training they are "
            "trained"
        )


def read_rows(rows: dict[str, tuple[str, list[Training]]]) -> list[Row]:
    """Results of trainings that are complete; `rows` as of `run_rows`, but nothing is trained and no data set is read.

    Raises:
        MissingRuns: some are not complete.
        DataError: two runs used different versions of a data set.
    """
    asked = [training for _, planned in rows.values() for training in planned]
    missing: dict[str, list[int]] = {}
    versions: dict[str, dict] = {}
    for training in asked:
        if training.is_complete():
            _check_same_data(training, versions)
        else:
            missing.setdefault(training.row, []).append(training.seed)
    if missing:
        raise MissingRuns(missing, [name for name in rows if name not in missing], len(asked))
    return _results(rows)


def run_rows(rows: dict[str, tuple[str, list[Training]]], jobs: int = 1, run: Callable | None = None) -> list[Row]:
    """Make or finish all trainings, `jobs` at a time, and read their results.

    Args:
        rows: name -> (title, trainings).
        run: makes one training; by default an ordinary training run.

    Raises:
        ConfigError: fewer than one job, or a folder holds a run of another config (before anything is trained).
        DataError: two runs used different versions of a data set (said as soon as both are complete).
        OccplugError: what the first failing run raised; complete runs stay.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs is {jobs}, but at least 1 process has to train")
    asked = [training for _, planned in rows.values() for training in planned]
    tested = {", ".join(sorted(training.cfg.data.targets)): training.row for training in asked}
    if len(tested) > 1:
        sets = "; ".join(f"{row} on {targets}" for targets, row in tested.items())
        raise ConfigError(f"rows of one table are tested on the same data sets, and here are {sets}")
    trained = [training.tests or training for training in asked]
    trained += [training.after for training in trained if training.after]
    unique = {training.folder: training for training in trained if training.elsewhere is None}
    unique |= {training.folder: training for training in trained if training.folder not in unique}
    _make([*unique.values(), *(training for training in asked if training.tests)], jobs, run or _run)
    return _results(rows)


def _results(rows: dict[str, tuple[str, list[Training]]]) -> list[Row]:
    return [Row(name, title, [Run.read(t.folder) for t in planned]) for name, (title, planned) in rows.items()]


def _make(trainings: list[Training], jobs: int, run: Callable) -> None:
    versions: dict[str, dict] = {}
    missing = []
    for training in trainings:
        if training.is_complete():
            if not versions and not training.is_of_this_root():
                versions = _given(training.cfg)
            _check_same_data(training, versions)
        else:
            missing.append(training)
    log.info("%d of %d runs are complete", len(trainings) - len(missing), len(trainings))
    start = time.perf_counter()
    # what others read comes first
    missing.sort(key=lambda training: (training.tests is not None, training.after is not None))
    finished = _in_turn(missing, run) if jobs == 1 else _in_parallel(missing, jobs, run)
    for done, training in enumerate(finished, 1):
        _check_same_data(training, versions)
        left = (time.perf_counter() - start) / done * (len(missing) - done) / 60
        log.info(
            "--- %s, seed %d is complete: %d of %d runs left, about %.0f min",
            training.row, training.seed, len(missing) - done, len(missing), left,
        )  # fmt: skip


def _given(cfg: CfgNode) -> dict[str, dict]:
    """The data sets of `cfg` where it says they are, as `_check_same_data` notes them."""
    data = DataManager(cfg, trains=False, sources=True)
    data.close()
    return {name: {"fingerprint": one.fingerprint, "folder": cfg.data.root} for name, one in data.sets.items()}


def _check_same_data(training: Training, versions: dict[str, dict]) -> None:
    """Note which versions of the data sets a complete run used.

    Args:
        versions: data set -> its fingerprint, and the folder of the run that used it first.

    Raises:
        DataError: an earlier run used another version.
    """
    used = Run.read(training.folder).fingerprints.items()
    noted = {name: {"fingerprint": fingerprint, "folder": training.folder} for name, fingerprint in used}
    for name in other_versions(versions, noted):
        raise DataError(
            f"the run in {training.folder} used another version of {name} than {versions[name]['folder']}, so they do "
            "not belong together; delete the run, or choose another folder, and give the command again"
        )
    versions.update(noted | versions)


def _run(training: Training) -> None:
    import_custom(training.cfg.custom_imports)  # in a process of its own nobody has read the config
    if training.tests is None:
        train(training.cfg, resume=training.can_resume(), config_file=training.config_file)
        return
    candidate = Candidate(training.cfg, training.config_file, read_test_weights(str(training.tests.weights)))
    evaluate_candidate(candidate, rerank=training.cfg.test.rerank, file=training.folder / "metrics.json")


def _in_turn(trainings: list[Training], run: Callable) -> Iterator[Training]:
    for training in trainings:
        log.info("--- %s, seed %d", training.row, training.seed)
        try:
            run(training)
        finally:
            start_logging()  # lets go of the run's log file
        yield training


def _in_parallel(trainings: list[Training], jobs: int, run: Callable) -> Iterator[Training]:
    """As they finish; one that needs another's files starts after it. After a failure no further one starts.

    Fresh processes share the cores evenly (`run.threads` says otherwise) and write to their logs.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = concurrent.futures.ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), _prepare_process, (max(1, cores // jobs),)
    )
    unmade = {training.folder: training for training in trainings}
    waiting = dict(unmade)
    futures: dict[concurrent.futures.Future, Training] = {}
    try:
        while unmade:
            ready = [each for each in waiting.values() if each.needs is None or each.needs.folder not in unmade]
            for training in ready[: jobs - len(futures)]:
                futures[pool.submit(run, waiting.pop(training.folder))] = training
            for future in concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_COMPLETED).done:
                training = futures.pop(future)
                if future.exception() is not None:
                    log.error("%s, seed %d failed: %s", training.row, training.seed, future.exception())
                    log.info("%d runs in progress end first", len(futures))
                    future.result()
                del unmade[training.folder]
                yield training
    except BrokenProcessPool as error:
        raise TrainingError(
            "a training process was killed, perhaps for want of memory; give the command again with a smaller --jobs "
            "to go on"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_process(threads: int) -> None:
    end_with_parent()
    torch.set_num_threads(threads)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # the run's own log file has everything  # noqa: SIM115
