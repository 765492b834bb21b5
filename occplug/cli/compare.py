"""`occplug compare`: several configs over several seeds, one table and one page.

Each run is an ordinary training run in `log/NAME/<config>/seed<k>`. A run that is complete is read, one that was
interrupted is resumed, so the command can be given again at any time.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, PackageLoader
from tabulate import tabulate

import occplug
from occplug.cli.markdown import replace_marked
from occplug.cli.session import start_logging
from occplug.cli.train import train
from occplug.config import load_config, resolved_yaml
from occplug.datamanager import DataManager
from occplug.engine import write_atomically
from occplug.errors import ConfigError
from occplug.evaluation import color_histogram, evaluate_embeddings, extract, squared_euclidean
from occplug.registry import DATASETS, build

__all__ = ["compare", "main"]

log = logging.getLogger(__name__)
FIGURES = ("mAP", "rank1", "rank5", "rank10")
HEADERS = ("mAP", "Rank-1", "Rank-5", "Rank-10")
BINS = (("below 30 %", 0.0), ("30 to 45 %", 0.30), ("above 45 %", 0.45))  # occluded share of the person, lower edge


def main(argv: list[str]) -> None:
    """Parse `argv`, run and print."""
    parser = argparse.ArgumentParser(
        "occplug compare", description="Train several configs over several seeds, print one table."
    )
    parser.add_argument("--configs", nargs="+", required=True, metavar="F", help="yaml files, one row each")
    parser.add_argument("--name", default="compare", help="runs go to log/NAME")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="seeds 1..N of each config")
    parser.add_argument("--root", default=None, metavar="DIR", help="folder that holds the data sets")
    parser.add_argument("--histogram", action="store_true", help="add a colour histogram, which learns nothing")
    parser.add_argument(
        "--readme", metavar="FILE", type=Path, help="replace the table between this command's marks in FILE"
    )
    args, options = parser.parse_known_args(argv)
    if any(word.startswith("--") for word in options):
        raise ConfigError(f"there is no option {options[0]}; see occplug compare --help")
    options += ["data.root", args.root] if args.root else []
    command = "python tools/compare.py " + " ".join(argv)
    page = compare(args.configs, args.seeds, args.name, options, args.histogram, args.readme, command)
    print(f"\nreport: {page}")


def compare(configs, seeds, name, options, histogram, readme, command) -> Path:
    """Run everything, print the table, write `log/NAME/report.html` (and the README's table); returns the page."""
    start_logging()
    folder = Path("log") / name
    rows = [_row_of(config, seeds, folder, options) for config in configs]
    if histogram:
        rows.append(_histogram_row(load_config(configs[0], options)))
    rows.sort(key=lambda row: row["runs"][0]["rank1"])
    table = [[row["name"], len(row["runs"]), *(_spread(row["runs"], key) for key in FIGURES)] for row in rows]
    heads = ["model", "seeds", *HEADERS]
    printed = tabulate(table, heads, tablefmt="github", disable_numparse=True)
    print(f"\n{printed}")
    footer = f"per cent, mean ± standard deviation over seeds; {_machine()}; `{command}`"
    print(footer)
    bins = _by_occlusion(rows, load_config(configs[0], options), folder)
    page = folder / "report.html"
    template = Environment(loader=PackageLoader("occplug", "assets"), autoescape=True).get_template("compare.html")
    html = template.render(heads=heads, table=table, rows=rows, bins=bins, footer=footer, version=occplug.__version__)
    write_atomically(page, lambda temporary: temporary.write_text(html))
    if readme is not None:
        replace_marked(readme, f"compare {name}", f"{printed}\n\n{footer}")
    return page


def _row_of(config: str, seeds: int, folder: Path, options: list[str]) -> dict:
    stem = Path(config).stem
    runs = []
    for seed in range(1, seeds + 1):
        target = folder / stem / f"seed{seed}"
        cfg = load_config(config, [*options, "train.seed", str(seed), "data.save_dir", str(target)])
        metrics = _finished(target, cfg)
        if metrics is None:
            log.info("--- %s, seed %d", stem, seed)
            metrics = train(cfg, config, resume=(target / "checkpoints" / "last.pth").exists())
        (figures,) = metrics["targets"].values()
        log.info("%s, seed %d: mAP %.1f, Rank-1 %.1f", stem, seed, 100 * figures["mAP"], 100 * figures["rank1"])
        seconds = sum(stage["seconds"] for stage in metrics["stages"])
        runs.append({**figures, "seed": seed, "seconds": seconds, "protocol": metrics["protocol"]})
    return {"name": stem, "runs": runs}


def _finished(folder: Path, cfg) -> dict | None:
    """The metrics of a complete run of exactly this config, or None."""
    metrics, config = folder / "metrics.json", folder / "config.yaml"
    if not metrics.exists():
        return None
    if config.read_text() != resolved_yaml(cfg):
        raise ConfigError(f"{folder} holds a run of another config; delete it, or choose another --name")
    return json.loads(metrics.read_text())


def _by_occlusion(rows: list[dict], cfg, folder: Path) -> list[tuple]:
    """(model, Rank-1 per bin of the query's occlusion ratio, mean over seeds) where the target knows the ratios."""
    if list(cfg.data.targets) != ["synthocc"]:
        return []
    known = build(DATASETS, "synthocc", root=cfg.data.root, verbose=False, **cfg.synthocc)
    ratio = {Path(path).name: known.annotation(path)["occlusion_ratio"] for path, *_ in known.query}
    table = []
    for row in rows:
        files = sorted((folder / row["name"]).glob("seed*/per_query/synthocc.npz"))
        hits: list[list[bool]] = [[] for _ in BINS]
        for file in files:
            with np.load(file) as saved:
                for image, first in zip(saved["image"].tolist(), saved["first_hit"].tolist()):
                    hits[sum(ratio[image] >= edge for _, edge in BINS) - 1].append(first == 1)
        if files:
            table.append((row["name"], [statistics.mean(found) for found in hits]))
    return table


def _histogram_row(cfg) -> dict:
    """The colour histogram on the first config's target."""
    data = DataManager(cfg)
    (target,) = data.targets
    loaders = data.test_loader[target]
    start = time.perf_counter()
    sides = [
        extract(lambda images, camids: _histogram(images, cfg), loaders[s], torch.device("cpu"))
        for s in ("query", "gallery")
    ]
    (query, q_pids, q_camids, _), (gallery, g_pids, g_camids, _) = sides
    matcher = lambda q, g: squared_euclidean(q.vector, g.vector)  # noqa: E731
    result = evaluate_embeddings(matcher, query, gallery, q_pids, g_pids, q_camids, g_camids)
    data.close()
    run = {
        **result.summary(),
        "seed": 0,
        "seconds": time.perf_counter() - start,
        "protocol": "HSV histogram, 6 stripes",
    }
    return {"name": "colour histogram (HSV, 6 stripes, grey-world)", "runs": [run]}


def _histogram(images, cfg):
    mean = torch.tensor(cfg.data.norm_mean).view(3, 1, 1)
    std = torch.tensor(cfg.data.norm_std).view(3, 1, 1)
    pixels = ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return occplug.Embedding(torch.stack([torch.as_tensor(color_histogram(p, grey_world=True)) for p in pixels]))


def _spread(runs: list[dict], key: str) -> str:
    values = [100 * run[key] for run in runs]
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}"
