"""`occplug compare`: several configs over several seeds, one table and one page.

Each run is an ordinary training run in `log/NAME/<config>/seed<k>`. A run that is complete is read, also one of an
equal config anywhere below `log`; one that was interrupted is resumed. So the command can be given again at any time.
`--keep` is that of `occplug ablate`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

import occplug
from occplug.cli.arguments import parse_options
from occplug.config import load_config
from occplug.data.manager import DataManager
from occplug.errors import ConfigError
from occplug.evaluation import PerQuery, color_histogram, evaluate_embeddings, extract, squared_euclidean
from occplug.experiments.kept import add_keep_option, run_and_keep
from occplug.experiments.markdown import check_marks
from occplug.experiments.tables import DASH, Report
from occplug.experiments.trainings import Row, Run, known_runs, plan, share
from occplug.registry import DATASETS, build
from occplug.runs.session import start_logging
from occplug.utils.files import user_path

__all__ = ["compare", "main"]

BINS = (("below 30 %", 0.0), ("30 to 45 %", 0.30), ("above 45 %", 0.45))  # occluded share of the person, lower edge


def main(argv: list[str]) -> None:
    """Parse `argv`, run and print."""
    parser = argparse.ArgumentParser(
        "occplug compare", description="Train several configs over several seeds, print one table.", allow_abbrev=False
    )
    parser.add_argument("--configs", nargs="+", required=True, metavar="F", help="yaml files, one row each")
    parser.add_argument("--name", default="compare", help="runs go to log/NAME")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 1..N of each config")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time")
    parser.add_argument("--baseline", metavar="ROW", help="the others are tested against this config (its bare name)")
    parser.add_argument("--root", default=None, metavar="DIR", help="folder that holds the data sets")
    parser.add_argument("--histogram", action="store_true", help="add a colour histogram, which learns nothing")
    add_keep_option(parser)
    parser.add_argument(
        "--readme", metavar="FILE", type=user_path, help="replace the table between this command's marks in FILE"
    )
    args, options = parse_options(parser, argv)
    page = compare(args, options, "python tools/compare.py " + " ".join(argv))
    print(f"\nreport: {page}")


def compare(args: argparse.Namespace, options: list[str], command: str) -> Path:
    """Run everything, print the table, write `log/NAME/report.html` and results; returns the page.

    Raises:
        ConfigError: a config that does not load, two of one name, or a baseline that is none of them.
    """
    start_logging()
    folder, mark = Path("log") / args.name, f"compare {args.name}"
    if args.readme is not None:
        check_marks(args.readme, mark)
    names = [Path(config).stem for config in args.configs]
    if len(set(names)) < len(names):
        raise ConfigError(f"--configs: two files have the same name among {', '.join(names)}; their runs would mix")
    if args.baseline is not None and args.baseline not in names:
        raise ConfigError(f"--baseline is {args.baseline!r}, expected one of {', '.join(names)}")
    planned = [plan(name, config, options, args.seeds, folder) for name, config in zip(names, args.configs)]
    known = known_runs(Path("log"))
    shared = {name: (name, share(trainings, known)) for name, trainings in zip(names, planned)}
    rows = run_and_keep(shared, args.jobs, args.keep)
    first = load_config(args.configs[0], options)
    if args.histogram:
        rows.append(_histogram_row(first))
    main_target = next(iter(rows[0].runs[0].figures))
    rows.sort(key=lambda row: statistics.mean(run.figures[main_target]["rank1"] for run in row.runs))
    report = Report("comparison", rows, folder, command, args.baseline, sections=_by_occlusion(rows, first))
    print(f"\n{report.markdown()}")
    return report.write(args.readme, mark)


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
        lines.append([row.title, *(f"{100 * statistics.mean(found):.1f}" if found else DASH for found in hits)])
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
    # nothing was trained, so there is no machine and date to tell; figures are those of any other
    run = Run(0, seconds, about, figures, queries, {}, made=None)
    return Row("histogram", "colour histogram (HSV, 6 stripes, grey-world)", [run])


def _histogram(images, cfg):
    mean = torch.tensor(cfg.data.norm_mean).view(3, 1, 1)
    std = torch.tensor(cfg.data.norm_std).view(3, 1, 1)
    pixels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return occplug.Embedding(torch.stack([torch.as_tensor(color_histogram(p, grey_world=True)) for p in pixels]))
