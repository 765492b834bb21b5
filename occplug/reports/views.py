"""What a page shows of a run, read from its folder: figures, those of each query, ranked lists and training curves."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from occplug.config.changes import saved_values
from occplug.errors import DataError, OccplugError
from occplug.evaluation import PerQuery, RankedLists, per_query_file, ranked_file, read_per_query, read_ranked
from occplug.reports.curves import Curves, read_curves
from occplug.runs.candidates import candidates
from occplug.runs.evaluate import evaluate_candidate
from occplug.utils.files import user_path
from occplug.utils.texts import read_json, read_text

__all__ = ["View", "numbered", "opened", "view_of_folder"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """One run.

    Args:
        title: of the model.
        metrics: content of its `metrics.json`.
        curves: of its stages; empty where nothing was trained or logged.
        queries, lists: target -> figures of each query and ranked lists, where the run has them.
        root: folder of the data sets that the run was tested on; empty: not known.
    """

    title: str
    metrics: dict
    curves: list[Curves] = field(default_factory=list)
    queries: dict[str, PerQuery] = field(default_factory=dict)
    lists: dict[str, RankedLists] = field(default_factory=dict)
    root: str = ""


def view_of_folder(folder: Path, title: str = "") -> View:
    """The finished run, or the results of a test, in `folder`.

    Raises:
        DataError: no `metrics.json`, or a file of figures that is damaged or does not fit it.
    """
    try:
        metrics = read_json(folder / "metrics.json")
        targets = list(metrics["targets"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: no run with results is there (metrics.json: {error}); let the run finish, or test its weights "
            "with occplug test"
        ) from error
    queries = {t: read_per_query(per_query_file(folder, t)) for t in targets if per_query_file(folder, t).is_file()}
    lists = {t: found for t in queries if (found := read_ranked(ranked_file(folder, t))) is not None}
    for target, found in lists.items():
        if len(found.nearest) != len(queries[target].ap):
            raise DataError(f"{ranked_file(folder, target)} is of another test than per_query; test the weights again")
    return View(title or metrics["method"], metrics, read_curves(folder), queries, lists, _root(folder))


def _root(folder: Path) -> str:
    try:
        return str(saved_values(read_text(folder / "config.yaml")).get("data.root", ""))
    except (OSError, ValueError, OccplugError):
        return ""


@contextmanager
def opened(addresses: list[str], titles: list[str], options: list) -> Iterator[list[View]]:
    """Views of `addresses`; what has no ranked lists yet is tested for the page, in a folder that goes afterwards.

    Args:
        addresses: folders of runs or of tests, or any weights `occplug test` takes.
        titles: one each, or none: the methods' names, numbered where two are equal.
        options: config keys over every config, for those that are tested.

    Raises:
        DataError: as `view_of_folder`, or images that cannot be read.
        ConfigError, CheckpointError: as `candidates`.
    """
    named = titles or [""] * len(addresses)
    with tempfile.TemporaryDirectory() as workplace:
        views = [
            _opened(address, title, options, Path(workplace) / str(number))
            for number, (address, title) in enumerate(zip(addresses, named))
        ]
        names = titles or numbered([view.title for view in views])
        yield [replace(view, title=name) for view, name in zip(views, names)]


def _opened(address: str, title: str, options: list, workplace: Path) -> View:
    folder = user_path(address)
    is_run = (folder / "metrics.json").is_file()
    if is_run:
        view = view_of_folder(folder, title)
        if view.lists or not (folder / "checkpoints").is_dir():
            return view
    [candidate] = candidates([], [address], [*options, "data.save_dir", str(workplace)])
    file = workplace / "test" / "metrics.json"
    try:
        evaluate_candidate(candidate, file=file)
    except DataError as error:
        if not is_run:
            raise
        log.warning("%s: its page has no ranked galleries: %s", address, error)
        return view
    tested = view_of_folder(file.parent, title)
    if not is_run:
        return tested
    if any(not _equal(tested.queries[target], view.queries[target]) for target in view.queries):
        log.warning(
            "%s: tested again for its page, with other figures than its own; the page shows the new ones", folder
        )
        return View(tested.title, tested.metrics, view.curves, tested.queries, tested.lists, tested.root)
    return View(view.title, view.metrics, view.curves, view.queries or tested.queries, tested.lists, tested.root)


def _equal(one: PerQuery, other: PerQuery) -> bool:
    same = np.array_equal(one.image, other.image)
    return same and np.allclose(one.ap, other.ap, equal_nan=True, atol=1e-3)  # a thousandth: another processor


def numbered(titles: list[str]) -> list[str]:
    """`titles`, those that occur several times with a number."""
    return [
        f"{title} {titles[: place + 1].count(title)}" if titles.count(title) > 1 else title
        for place, title in enumerate(titles)
    ]
