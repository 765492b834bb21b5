"""Complete runs without their weights, small enough to be committed: tables can be made again from them.

A kept run is `config.yaml`, `metrics.json` and `per_query/` of its run, and `kept.json`, which says what it built on.
Kept runs are in a folder, or in one file (:mod:`occplug.experiments.keptfile`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from yacs.config import CfgNode

from occplug.config import load_config, resolved_yaml
from occplug.config.files import flatten
from occplug.errors import ConfigError, DataError
from occplug.evaluation import per_query_file
from occplug.experiments.keptfile import as_folder
from occplug.experiments.trainings import KEPT, RUN, Row, Training, embedded_in, read_rows, run_rows
from occplug.runs.record import embedded
from occplug.utils.files import write_atomically
from occplug.utils.texts import parse_json
from occplug.zoo.exporting import public, read_metrics

__all__ = ["KeptRuns", "run_and_keep"]

log = logging.getLogger(__name__)

# Seed, and what else moves the figures of a run: its settings, the runs it builds on in place of their folders, and the
# package's files it was made with
Key = tuple[int, str]


def run_and_keep(
    rows: dict[str, tuple[str, list[Training]]], jobs: int, place: Path | None, trains: bool = True
) -> list[Row]:
    """`run_rows`, with the runs kept in `place` in place of trainings, and the others kept there; None: without it.

    Args:
        place: a folder, or a file whose name ends in `.jsonl`.
        trains: False: `read_rows` in place of `run_rows`.

    Raises:
        OccplugError: as `run_rows` or `read_rows`, `KeptRuns` and `read_runs`.
    """
    make: Callable[..., list[Row]] = partial(run_rows, jobs=jobs) if trains else read_rows
    if place is None:
        return make(rows)
    with as_folder(place) as folder:
        kept = KeptRuns(folder)
        rows = {name: (title, [kept.take(training) for training in planned]) for name, (title, planned) in rows.items()}
        made = make(rows)
        for training in (training for _, planned in rows.values() for training in planned):
            kept.keep(training)
    return made


class KeptRuns:
    """The runs in `folder`, identified by what moves their figures: `folder/<config>/<row>-<hash>/seed<k>`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._named = {_name(run): run for run in self._runs()}
        self._keys: dict[Path, Key | None] = {}
        self._unsaid: dict[Path, Key] = {}  # of runs that do not say what they were made with: the key if it is today's

    def _runs(self) -> list[Path]:
        return sorted(metrics.parent for metrics in self.folder.rglob("seed*/metrics.json"))

    def take(self, training: Training) -> Training:
        """The kept run of `training`, which needs no other run; `training` itself if there is none.

        Raises:
            DataError: a kept run is damaged, or its config is not the one of its name; names its file.
        """
        there = self._find(_key(training))
        return training if there is None else replace(training, elsewhere=there, tests=None, after=None)

    def keep(self, training: Training) -> Path:
        """Copy the complete run `training`, and the run it builds on, unless they are here; returns the copy."""
        if training.folder.is_relative_to(self.folder):
            return training.folder
        key = _key_of_made(training)
        there = self._find(key)
        if there is None:
            sources = (("tests", training.tests), ("after", training.after))
            kept = {
                name: None if source is None else self.keep(source).relative_to(self.folder).as_posix()
                for name, source in sources
            }
            # rows of two tables may have one name, and one row several settings
            row = f"{training.row}-{_hash(key)}"
            there = self.folder / Path(training.config_file).stem / row / f"seed{training.seed}"
            _copy(training, there, kept)
            self._named[_name(there)] = there
        return there

    def _find(self, key: Key) -> Path | None:
        there = self._named.get((_hash(key), f"seed{key[0]}"))
        if there is not None:
            if self._key_of(there) not in (key, None):
                raise DataError(
                    f"the kept run {there.relative_to(self.folder).as_posix()} is damaged: its config is not the one "
                    "that its name stands for; delete it, and it is kept again"
                )
            return there
        # config keys that came later are not in the hash, but stand at their defaults in the config
        there = next((run for run in self._runs() if self._key_of(run) == key), None)
        unsaid = next((run for run, known in self._unsaid.items() if known == key), None)
        if there is None and unsaid is not None:
            log.warning(
                "the kept run %s does not say with which weights and occluders of the package it was made, so it is "
                "made again; if they were this version's, `occplug keep SOURCE --to FILE --same-weights` says so",
                unsaid.relative_to(self.folder),
            )
        return there

    def _key_of(self, run: Path) -> Key | None:
        """The key of a kept run; None if this version does not read its config or that of a run it builds on, or if
        one of them does not say with which files of the package it was made."""
        if run not in self._keys:
            sources: list[Key | Literal[""] | None] = [
                self._key_of(self.folder / name) if name else "" for name in _read_sources(run)
            ]
            cfg = _config_in((run / "config.yaml").read_text(encoding="utf-8", errors="replace"), run / "config.yaml")
            known = [source for source in sources if source is not None]
            self._keys[run] = None
            if cfg is not None and len(known) == len(sources):
                self._keys[run] = self._of_run(run, cfg, known)
        return self._keys[run]

    def _of_run(self, run: Path, cfg: CfgNode, sources: list[Key | Literal[""]]) -> Key | None:
        metrics = read_metrics(run)
        is_test = bool(_read_sources(run)[0])
        files, today = embedded_in(metrics), {} if is_test else embedded(cfg)
        if today and files is None:
            self._unsaid[run] = _of(cfg, sources, today)
            return None
        return _of(cfg, sources, {} if is_test else files or {})


_READ: dict[str, CfgNode | None] = {}  # text of a config -> what it is: a command that looks twice reads once


def _config_in(text: str, file: Path) -> CfgNode | None:
    """The config with that `text`, of `file`; None if no version of today reads it."""
    if text not in _READ:
        try:
            _READ[text] = load_config(file, text=text)  # as text: keys without effect were told when it was trained
        except ConfigError:
            _READ[text] = None
    return _READ[text]


def _name(run: Path) -> tuple[str, str]:
    """Hash and seed of the kept run in the folder `run`."""
    return run.parent.name.rpartition("-")[2], run.name


def _hash(key: Key) -> str:
    return hashlib.sha256(key[1].encode()).hexdigest()[:8]


def _key(training: Training) -> Key:
    sources: list[Key | Literal[""]] = [_key(each) if each else "" for each in (training.tests, training.after)]
    return _of(_portable(training), sources, training.embedded)


def _key_of_made(training: Training) -> Key:
    """`_key` by what the complete run says it was made with; one that does not say has the key of early versions."""
    sources: list[Key | Literal[""]] = [_key_of_made(s) if s else "" for s in (training.tests, training.after)]
    files = {} if training.tests else embedded_in(read_metrics(training.folder)) or {}
    return _of(_portable(training), sources, files)


def _of(cfg: CfgNode, sources: list[Key | Literal[""]], files: dict[str, str]) -> Key:
    parts = (public(cfg), [source and source[1] for source in sources])
    return cfg.train.seed, repr((*parts, files) if files else parts)


def _copy(training: Training, kept: Path, sources: dict[str, str | None]) -> None:
    run = training.folder
    metrics = read_metrics(run)
    metrics.pop("tested", None)  # of a file that is not kept; `tests` says whose weights they were
    config = resolved_yaml(_portable(training))
    for target in metrics["targets"]:
        file = per_query_file(Path(), target)
        write_atomically(kept / file, partial(shutil.copyfile, run / file))
    # metrics last: with them a run counts as complete
    for name, text in {"config.yaml": config, KEPT: _json(sources), "metrics.json": _json(metrics)}.items():
        write_atomically(kept / name, partial(Path.write_text, data=text, encoding="utf-8"))


def _portable(training: Training) -> CfgNode:
    """The run's config without folders of this machine: `${run}` stands for that of the run it builds on."""
    cfg = training.cfg.clone()
    cfg.defrost()
    cfg.data.root = cfg.data.save_dir = ""
    known: dict[str, Any] = dict(flatten(cfg))
    after = cast(Training, training.after)  # keys are `placed` below its folder; without it there are none
    moved = [[key, known[key].replace(str(after.folder), RUN)] for key in training.placed]
    cfg.merge_from_list([word for pair in moved for word in pair])
    return cfg


def _json(content: dict) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _read_sources(run: Path) -> list[str | None]:
    """Kept runs that the one in `run` tests, and builds on."""
    file = run / KEPT
    try:
        sources = parse_json(file.read_text(encoding="utf-8"))
        return [sources["tests"], sources["after"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is missing or damaged ({error}); delete {run}, and its run is kept again") from error
