"""A training that leaves a run's files without training: figures follow from the config and the seed."""

import json
import os
import time
from pathlib import Path

import numpy as np

from occplug.config import save_config
from occplug.errors import TrainingError
from occplug.evaluation import PerQuery
from occplug.runs.record import run_record
from occplug.utils.files import file_sha256

QUERIES = 120


def fake_run(training) -> None:
    """Average precision of 120 queries of 30 persons, 0.5 and noise of the seed; without prompts 0.1 lower."""
    cfg, folder = training.cfg, training.folder
    if cfg.method.neck == "after":
        raise TrainingError(f"{training.row} does not converge")
    save_config(cfg, folder / "config.yaml")
    rng = np.random.default_rng(cfg.train.seed)
    ap = np.clip(rng.normal(0.5 if cfg.method.prompts else 0.4, 0.1, QUERIES), 0, 1)
    first_hit = np.where(ap > 0.45, 1, 3)
    pid = np.repeat(np.arange(30), 4)
    names = np.array([f"{i:04d}.jpg" for i in range(QUERIES)])
    targets = {}
    for target in cfg.data.targets:
        (folder / "per_query").mkdir(exist_ok=True)
        PerQuery(names, pid, pid * 0, ap, first_hit).write(folder / "per_query" / f"{target}.npz")
        ranks = {f"rank{k}": float((first_hit <= k).mean()) for k in (1, 5, 10, 20)}
        targets[target] = {"mAP": float(ap.mean()), **ranks, "num_query": QUERIES, "num_gallery": 9}
    if training.tests:
        stages, tested = [], {"tested": file_sha256(training.tests.weights)}
    else:
        stages, tested = [{"name": "stage2", "epochs": 1, "seconds": 2.0}], {}
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "checkpoints/stage2.pth").write_text(f"{training.row} {training.seed} {os.urandom(4)}")
    data = {target: {"fingerprint": f"version {cfg.synthocc.seed}"} for target in targets}
    metrics = {"seed": cfg.train.seed, "protocol": "fake", "targets": targets, "stages": stages, "data": data, **tested}
    if not training.tests:
        metrics["record"] = {**run_record(), "embedded": training.embedded}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    of = f" of {training.tests.row} {training.tests.seed}" if training.tests else ""
    with Path(folder.parents[1], "made").open("a") as made:
        made.write(f"{training.row} {training.seed}{of}\n")


def careful_run(training) -> None:
    """`fake_run` that takes a moment, and refuses to start before what it reads is there."""
    if training.needs is not None and not training.needs.is_complete():
        raise TrainingError(f"{training.row} started before {training.needs.row}")
    time.sleep(0.3)
    fake_run(training)


def killed_run(training) -> None:
    """Ends its process as the system does when memory runs out."""
    os._exit(9)
