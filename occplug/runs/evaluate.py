"""Evaluation of trained weights on a config's targets."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from occplug.config import save_config
from occplug.data.manager import DataManager
from occplug.distributed import current_ranks, join_ranks
from occplug.runs.candidates import Candidate, candidate_of, combined, differences, engine_of
from occplug.runs.failures import failures_named
from occplug.runs.preflight import check_matches, write_splits
from occplug.runs.same_start import check_same_start
from occplug.runs.session import describe_protocol, prepare, write_metrics
from occplug.utils.files import file_sha256

__all__ = ["evaluate", "evaluate_candidate"]

log = logging.getLogger(__name__)


def evaluate(cfg, weights: str, rerank: bool = False) -> dict:
    """Evaluate `weights` with `cfg`; returns what `metrics.json` holds.

    Args:
        weights: a checkpoint, or `zoo://NAME`.
        rerank: k-reciprocal re-ranking (`eval.rerank_*`).

    Raises:
        ConfigError: no such zoo entry.
        CheckpointError: weights that cannot be fetched or read, or do not fit the config; lists the keys.
    """
    return evaluate_candidate(candidate_of(cfg, weights), rerank=rerank)


def evaluate_candidate(
    candidate: Candidate, rerank: bool = False, visrank: bool = False, file: Path | None = None
) -> dict:
    """Evaluate `candidate`; returns what `metrics.json` holds, with the weights' SHA-256 as `tested`.

    Args:
        file: where to write that; `metrics.json` in data.save_dir/test by default.

    Raises:
        CheckpointError: the weights do not fit the config; lists the keys.
    """
    cfg = candidate.cfg
    with join_ranks(cfg.use_gpu and torch.cuda.is_available()):
        return _evaluate(cfg, candidate, rerank, visrank, file)


def _evaluate(cfg, candidate: Candidate, rerank: bool, visrank: bool, file: Path | None) -> dict:
    folder, device = prepare(cfg, saves=False)
    ranks = current_ranks()
    with ranks.local_main_first():
        data = DataManager(cfg, trains=False, trained=candidate.weights.trained)
    check_same_start(cfg, data)
    check_matches(data)
    ranks.from_main(lambda: write_splits(data, folder))
    engine = engine_of(candidate, data, folder, device)
    options = {**engine.test_options(), "rerank": rerank, "visrank": visrank, "visrank_topk": cfg.test.visrank_topk}
    with failures_named(folder), engine.running():
        engine.run(save_dir=str(folder), test_only=True, **options)
    data.close()
    file = file or folder / "test" / "metrics.json"
    if ranks.is_main:
        save_config(cfg, file.with_name("config.yaml"))  # the folder may be that of the run that made the weights
    weights = candidate.weights
    given = (rerank, engine.camera_rows, combined(candidate), data, engine.squared_distance, weights.metric)
    line = describe_protocol(cfg, *given)
    protocol = "; ".join(filter(None, [line, weights.note]))
    more: dict[str, Any] = {"tested": file_sha256(Path(weights.where))}
    changed = differences(candidate)
    if changed:
        changes = "; ".join(f"{key} {then!r} -> {now!r}" for key, (then, now) in changed.items())
        log.warning("tested with another config than trained: %s", changes)
        more["differs"] = changed
    return write_metrics(cfg, engine, candidate.config_file, protocol, file, **more)
