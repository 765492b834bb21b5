"""Several configs over several seeds in one table: the body of `occplug compare`."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

import occplug
from occplug.config import load_config
from occplug.data.manager import DataManager
from occplug.errors import ConfigError, DataError
from occplug.evaluation import PerQuery, color_histogram, evaluate_embeddings, extract, squared_euclidean
from occplug.experiments.kept import run_and_keep
from occplug.experiments.tables import DASH, Report
from occplug.experiments.trainings import Row, Run, known_runs, plan, share
from occplug.registry import DATASETS, build
from occplug.runs.session import start_logging

__all__ = ["compare", "compare_runs"]

BINS = (("below 30 %", 0.0), ("30 to 45 %", 0.30), ("above 45 %", 0.45))  # occluded share of the person, lower edge


def compare(
    configs: list[str],
    options: list[str] | None = None,
    folder: Path = Path("log/compare"),
    seeds: int = 1,
    jobs: int = 1,
    baseline: str | None = None,
    histogram: bool = False,
    keep: Path | None = None,
    command: str = "",
    trains: bool = True,
) -> Report:
    """Train and test `configs`, a row each, or read the runs that are complete.

    Each run is an ordinary training run in `folder/<config>/seed<k>`. One that is complete is read, also one of an
    equal config anywhere in the folder above `folder`; one that was interrupted goes on.

    Args:
        configs: yaml files with different names.
        options: config keys over every config, as `load_config` takes them.
        seeds: 1 to this number, of each config.
        jobs: trainings at a time.
        baseline: name of the config (without folder and ending) that the others are compared with.
        histogram: add a row for a colour histogram, which learns nothing.
        keep: a file or folder of kept runs, see `run_and_keep`.
        command: stands below the table, so that it can be made again.
        trains: False: runs that are missing are an error.

    Raises:
        MissingRuns: some, with `trains` False.
        ConfigError: a config that does not load, two of one name, or a baseline that is none of them.
    """
    options = options or []
    start_logging()
    names = [Path(config).stem for config in configs]
    if len(set(names)) < len(names):
        raise ConfigError(f"--configs: two files have the same name among {', '.join(names)}; their runs would mix")
    if baseline is not None and baseline not in names:
        raise ConfigError(f"--baseline is {baseline!r}, expected one of {', '.join(names)}")
    planned = [plan(name, config, options, seeds, folder) for name, config in zip(names, configs)]
    known = known_runs(folder.parent)
    shared = {name: (name, share(trainings, known)) for name, trainings in zip(names, planned)}
    rows = run_and_keep(shared, jobs, keep, trains)
    first = load_config(configs[0], options)
    if histogram:
        rows.append(_histogram_row(first))
    main_target = next(iter(rows[0].runs[0].figures))
    rows.sort(key=lambda row: statistics.mean(run.figures[main_target]["rank1"] for run in row.runs))
    return Report("comparison", rows, folder, command, baseline, sections=_by_occlusion(rows, first))


def compare_runs(
    runs: list[Path], folder: Path, titles: list[str] | None = None, baseline: str | None = None, command: str = ""
) -> Report:
    """Finished runs in one table, as they are; nothing is trained.

    Args:
        runs: folders of runs, or of the seeds of one, `FOLDER/seed<k>`; a row each.
        folder: of the table's files.
        titles: one a row; the names of the folders if not given, with what is above them where those are equal.
        baseline: title that the others are compared with; the first if not given.
        command: stands below the table.

    Raises:
        ConfigError: fewer than two runs, titles that do not fit, or a baseline that is none of them.
        DataError: a folder without a finished run, or runs without a common test set, or tested on other queries.
    """
    if len(runs) < 2:
        raise ConfigError("--runs compares finished runs: give two at least")
    titles = titles or _names(runs)
    if len(titles) != len(runs) or len(set(titles)) < len(titles):
        raise ConfigError(f"--titles has {', '.join(titles)} for {len(runs)} runs; give one each, all different")
    baseline = baseline or titles[0]
    if baseline not in titles:
        raise ConfigError(f"--baseline is {baseline!r}, expected one of {', '.join(titles)}")
    rows = [Row(title, title, _finished(run)) for title, run in zip(titles, runs)]
    common = [t for t in rows[0].runs[0].figures if all(t in run.figures for row in rows for run in row.runs)]
    if not common:
        raise DataError("these runs have no test set in common, so there is nothing to compare")
    kept = [Row(r.name, r.title, [replace(x, figures={t: x.figures[t] for t in common}) for x in r.runs]) for r in rows]
    _check_versions(kept, common)
    return Report("comparison of finished runs", kept, folder, command, baseline)


def _names(runs: list[Path]) -> list[str]:
    """Names of the folders, with more of their paths until all differ."""
    parts = [run.absolute().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError("--runs names one folder twice")


def _finished(run: Path) -> list[Run]:
    """The run in the folder `run`, or its seeds."""
    if (run / "metrics.json").is_file():
        return [Run.read(run)]
    seeds = sorted(file.parent for file in run.glob("seed*/metrics.json"))
    if not seeds:
        raise DataError(f"{run}: no finished run is there, and no seed<k>/ with one; let it finish first")
    return [Run.read(each) for each in seeds]


def _check_versions(rows: list[Row], targets: list[str]) -> None:
    """Raise DataError for runs on different versions of a test set."""
    first = rows[0].runs[0]
    for row in rows:
        for run in row.runs:
            other = [t for t in targets if run.fingerprints.get(t) != first.fingerprints.get(t)]
            if other:
                raise DataError(f"{row.title} was tested on another version of {other[0]} than {rows[0].title}")


def _by_occlusion(rows: list[Row], cfg) -> list[tuple[str, list[str], list[list]]]:
    """Rank-1 per bin of the query's occlusion ratio, mean over seeds, where the target knows the ratios."""
    if "synthocc" not in cfg.data.targets:
        return []
    known = build(DATASETS, "synthocc", root=cfg.data.root, verbose=False, **cfg.synthocc)
    ratio = {Path(path).name: known.annotation(path)["occlusion_ratio"] for path, *_ in known.query}
    lines = []
    for row in rows:
        hits: list[list[bool]] = [[] for _ in BINS]
        for queries in (run.queries["synthocc"] for run in row.runs):
            for image, first in zip(queries.image.tolist(), queries.first_hit.tolist()):
                hits[sum(ratio[image] >= edge for _, edge in BINS) - 1].append(first == 1)
        lines.append([row.title, *(f"{100 * statistics.mean(values):.1f}" if values else DASH for values in hits)])
    return [("Rank-1 by how much of the query is occluded", ["model", *(name for name, _ in BINS)], lines)]


def _histogram_row(cfg) -> Row:
    """The colour histogram on the first config's targets."""
    data = DataManager(cfg)
    start = time.perf_counter()
    figures, queries = {}, {}
    for target in data.targets:
        loaders = data.test_loader[target]
        (query, q_pids, q_camids, paths), (gallery, g_pids, g_camids, _) = (
            extract(lambda images, camids: _histogram(images, cfg), loaders[side], torch.device("cpu"))
            for side in ("query", "gallery")
        )
        distance = lambda q, g: squared_euclidean(q.vector, g.vector)  # noqa: E731
        result = evaluate_embeddings(distance, query, gallery, q_pids, g_pids, q_camids, g_camids)
        figures[target], queries[target] = result.summary(), PerQuery.of(result, paths)
    data.close()
    seconds, about = time.perf_counter() - start, "HSV histogram, 6 stripes"
    # nothing was trained, so there is no machine and no date; figures are those of any other
    run = Run(0, seconds, about, figures, queries, {}, made=None)
    return Row("histogram", "colour histogram (HSV, 6 stripes, grey-world)", [run])


def _histogram(images, cfg):
    mean = torch.tensor(cfg.data.norm_mean).view(3, 1, 1)
    std = torch.tensor(cfg.data.norm_std).view(3, 1, 1)
    pixels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return occplug.Embedding(torch.stack([torch.as_tensor(color_histogram(p, grey_world=True)) for p in pixels]))
