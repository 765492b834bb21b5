"""Benchmarks: speed and memory against the alternative, measured in the same run.

A benchmark is a function from `quick` to a :class:`Comparison`, entered in BENCHMARKS. Both sides run on one thread,
one after the other, each in a new process.
"""

from __future__ import annotations

from collections.abc import Callable

from occplug.benchmarks.comparison import Comparison, table
from occplug.benchmarks.distances import masked_distances, part_distances
from occplug.benchmarks.hybrid import ska, wgff
from occplug.benchmarks.loading import augment, loading
from occplug.benchmarks.ranking import ranking, reranking
from occplug.benchmarks.testing import ag_reid_test
from occplug.benchmarks.training import dpmpp_step, stage1
from occplug.measuring import machine

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
    "wgff": wgff,
    "ska": ska,
}
