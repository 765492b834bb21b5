"""Embeddings in half precision (`eval.amp`): time, and whether galleries are ranked alike."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.comparison import Rows
from occplug.utils.measuring import measured

__all__ = ["amp"]

WEIGHTS = ("clip_reid/vit_tiny/synthocc", "dpl_reid/vit_tiny/synthocc")
TYPES = ("none", "bf16", "fp16")
TOP = 10


def amp(quick: bool) -> Rows:
    """The test of zoo weights on SynthOcc (below `reid-data`, rendered if it is not there) in each precision."""
    rows = [row for weights in WEIGHTS[: 1 if quick else None] for row in measured(_testing, weights, quick).output]
    heads = ("", "eval.amp", "CPU s", "mAP, %", "Rank-1, %", "same first image, %", f"same of the first {TOP}, %")
    note = (
        "CPU seconds of embedding queries and gallery, without reading them; the last two compare the ranked gallery "
        "of each query with that in float32"
    )
    return Rows("amp: embeddings in float32, bfloat16 and float16, SynthOcc small", heads, rows, note)


def _testing(weights: str, quick: bool):
    """Rows of the table for `weights`."""
    import occplug
    from occplug.data.manager import DataManager
    from occplug.evaluation import extract, rank_distances

    model = occplug.load(f"zoo://{weights}", options=["data.workers", 0])
    data = DataManager(model.cfg, trains=False)
    target = data.targets[0]
    read = {side: list(data.test_loader[target][side]) for side in ("query", "gallery")}
    if quick:
        read = {side: batches[:4] for side, batches in read.items()}

    def work() -> list[list[str]]:
        rows, first = [], None
        for kind in TYPES:
            start = time.process_time()
            sides = {
                side: extract(model.method.embed, batches, progress=False, amp=kind) for side, batches in read.items()
            }
            spent = time.process_time() - start
            (query, q_pids, q_camids, _), (gallery, g_pids, g_camids, _) = sides.values()
            distances = model.method.distance(query, gallery).numpy()
            result = rank_distances(distances, q_pids, g_pids, q_camids, g_camids)
            ranked = np.argsort(distances, axis=1, kind="stable")[:, :TOP]
            first = ranked if first is None else first
            same = [
                np.mean(ranked[:, 0] == first[:, 0]),
                np.mean([len(set(a) & set(b)) / TOP for a, b in zip(ranked, first)]),
            ]
            figures = [f"{100 * value:.2f}" for value in (result.mAP, result.cmc[0], *same)]
            rows.append([weights, kind, f"{spent:.3g}", *figures])
        return rows

    return work
