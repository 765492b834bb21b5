"""What every command that trains or tests does first and last: logging, device, data, model, metrics.json."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import torch

import occplug
from occplug import _moved
from occplug.config import save_config
from occplug.data.cameras import CameraRows, describe_cameras, sees_cameras
from occplug.data.manager import DataManager
from occplug.distributed import current_ranks
from occplug.engine import (
    MethodEngine,
    seed_everything,
    stock_engine,
)
from occplug.evaluation import PerQuery, per_query_file, protocol_line, ranked_file
from occplug.method import build_method
from occplug.registry import model_class
from occplug.runs.failures import LogFile
from occplug.runs.record import run_record, start_record
from occplug.runs.same_start import check_same_start
from occplug.utils.files import write_atomically

__all__ = [
    "build_engine",
    "check_same_start",
    "describe_protocol",
    "prepare",
    "sees_cameras",
    "start_logging",
    "write_metrics",
]

__getattr__ = _moved.older_names(__name__)
log = logging.getLogger(__name__)


def start_logging(file: Path | None = None) -> None:
    """Log occplug's messages to stdout, and with more detail to `file`; of several processes rank 0 does, others log
    errors alone."""
    root = logging.getLogger("occplug")
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(logging.DEBUG)
    root.propagate = False
    if hasattr(sys.stdout, "reconfigure"):  # names of files need not be text that the terminal can show
        sys.stdout.reconfigure(errors="backslashreplace")
    console = logging.StreamHandler(sys.stdout)
    is_main = current_ranks().is_main
    console.setLevel(logging.INFO if is_main else logging.ERROR)
    console.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(console)
    if file is not None and is_main:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = LogFile(file, encoding="utf-8", errors="backslashreplace")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(handler)


def prepare(cfg, saves: bool = True) -> tuple[Path, torch.device]:
    """Start a run's log, save its resolved config (if it `saves`), seed everything; returns its folder and device."""
    folder = Path(cfg.data.save_dir)
    start_record()
    start_logging(folder / "train.log")
    ranks = current_ranks()
    if saves and ranks.is_main:
        save_config(cfg, folder / "config.yaml")
    if cfg.run.threads:
        torch.set_num_threads(cfg.run.threads)
    torch.use_deterministic_algorithms(cfg.run.deterministic)
    seed_everything(cfg.train.seed)
    use_gpu = cfg.use_gpu and torch.cuda.is_available()
    device = torch.device("cuda" if use_gpu else "cpu")
    if use_gpu and ranks.world > 1:
        device = torch.device("cuda", torch.cuda.current_device())
    if ranks.world > 1:
        log.info("%d processes train together", ranks.world)
    log.info("occplug %s, torch %s, on %s; files in %s", occplug.__version__, torch.__version__, device, folder)
    return folder, device


def build_engine(
    cfg, data: DataManager, folder: Path, device: torch.device, num_classes=None, num_cameras=None, **options
):
    """The model of `cfg` on `device` in the engine that trains and tests it.

    Args:
        num_classes, num_cameras: of the training set; taken from `data` unless given (a checkpoint knows them too).
        options: passed on: `limit` for dry runs; `pretrained=False` skips the initial weights.
    """
    pretrained = options.pop("pretrained", True)
    classes = data.num_train_pids if num_classes is None else num_classes
    cameras = data.num_train_cams if num_cameras is None else num_cameras
    method = build_method(cfg, classes, cameras, pretrained=pretrained).to(device)
    if method.is_stock:
        return stock_engine(cfg, data, method, folder, device, **options)
    return MethodEngine(cfg, data, method, folder, device, **options)


def describe_protocol(
    cfg,
    reranked: bool = False,
    camera_rows: CameraRows | None = None,
    combined: bool = False,
    data: DataManager | None = None,
    squared: bool = False,
    metric: str | None = None,
) -> str:
    """One line that says how features were made and compared.

    Args:
        camera_rows: of the model's camera embedding; None where they are not known.
        combined: the weights were trained on query and gallery images, too (`data.combineall`).
        data: tells of which targets cameras are unknown.
        squared: `Method.squared_distance`, for the words on re-ranking.
        metric: name of the distance where it is not the method's (`TestWeights.metric`).
    """
    unfiltered = [] if data is None else [n for n in data.targets if not getattr(data.sets[n], "has_cameras", True)]
    if data is not None and len(unfiltered) == len(data.targets):
        unfiltered = [""]
    of_method = model_class(cfg.model.name).protocol(cfg)
    return protocol_line(
        method=cfg.model.name,
        flip=cfg.eval.flip,
        cameras=sees_cameras(cfg) and (camera_rows is None or describe_cameras(cfg.data.targets, camera_rows)),
        reranked=(cfg.eval.rerank_k1, cfg.eval.rerank_k2, cfg.eval.rerank_lambda) if reranked else None,
        squared=squared,
        combined=combined or cfg.data.combineall,
        unfiltered=unfiltered,
        resize=cfg.data.resize,
        amp=cfg.eval.amp,
        **(of_method if metric is None else {**of_method, "metric": metric}),
    )


def write_metrics(cfg, engine, config_file: str, protocol: str, file: Path, **more) -> dict:
    """Write `metrics.json` (interfaces: fractions in [0, 1]) and log the results; returns what was written.

    Rank 0 writes, and all processes get what it wrote.
    `record` says when and on what it was made (:mod:`occplug.runs.record`).
    Beside it, `per_query/TARGET.npz` holds the figures of every query (:class:`occplug.evaluation.PerQuery`), and
    `ranked/TARGET.npz` their ranked lists (:class:`occplug.evaluation.RankedLists`). They come first: a folder with
    `metrics.json` is complete.
    """
    return current_ranks().from_main(lambda: _write_metrics(cfg, engine, config_file, protocol, file, more))


def _record(engine) -> dict:
    world, files = current_ranks().world, getattr(engine, "embedded", None)
    record = run_record() | ({"processes": world} if world > 1 else {})
    return record if files is None else {**record, "embedded": files}


def _write_metrics(cfg, engine, config_file: str, protocol: str, file: Path, more: dict) -> dict:
    metrics = {
        "method": cfg.model.name,
        "config_file": str(config_file),
        "seed": cfg.train.seed,
        "protocol": protocol,
        "targets": {name: result.summary() for name, result in engine.results.items()},
        "stages": [vars(record) for record in engine.records],
        "data": engine.datamanager.summary(),
        "record": _record(engine),
        **more,
    }
    if getattr(engine, "changes", None):  # the config was another one in the epochs before
        metrics["resumed"] = engine.changes
    for name, result in engine.results.items():
        queries = PerQuery.of(result, engine.query_paths[name])
        write_atomically(per_query_file(file.parent, name), queries.write)
    for name, lists in getattr(engine, "listed", {}).items():
        write_atomically(ranked_file(file.parent, name), lists.write)
    write_atomically(file, lambda temporary: temporary.write_text(json.dumps(metrics, indent=2) + "\n"))
    log.info("protocol: %s", protocol)
    log.info("results are in %s", file)
    return metrics
