"""Benchmarks: speed and memory against the alternative, measured in the same run.

A benchmark is a function from `quick` to a :class:`Comparison`, entered in BENCHMARKS. Both sides run on one thread,
one after the other, each in a new process.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.comparison import Comparison, table
from benchmarks.distances import masked_distances, part_distances
from benchmarks.hybrid import ska, wgff
from benchmarks.loading import augment, loading
from benchmarks.ranking import ranking, reranking
from benchmarks.serving import embed, search
from benchmarks.testing import ag_reid_test
from benchmarks.training import dpmpp_step, stage1
from occplug.utils.measuring import machine

__all__ = ["BENCHMARKS", "Comparison", "machine", "table"]

BENCHMARKS: dict[str, Callable[[bool], Comparison]] = {
    "ranking": ranking,
    "reranking": reranking,
    "part_distance": part_distances,
    "masked_distance": masked_distances,
    "stage1": stage1,
    "dpmpp_step": dpmpp_step,
    "ag_reid_test": ag_reid_test,
    "loading": loading,
    "augment": augment,
    "embed": embed,
    "search": search,
    "wgff": wgff,
    "ska": ska,
}
