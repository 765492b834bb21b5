"""Benchmarks: speed and memory against the alternative, measured in the same run.

A benchmark is a function from `quick` to a :class:`Comparison` of two sides or to :class:`Rows` of several, entered in
BENCHMARKS. All sides run on one thread, one after the other, each in a new process.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.comparison import Comparison, Rows, table
from benchmarks.costs import components
from benchmarks.distances import masked_distances, part_distances
from benchmarks.galleries import effort, engines, engines_many
from benchmarks.hybrid import ska, wgff
from benchmarks.loading import augment, loading
from benchmarks.precision import amp
from benchmarks.ranking import ranking, reranking
from benchmarks.scaling import scaling
from benchmarks.serving import embed, embed_memory, embed_turns
from benchmarks.testing import ag_reid_test
from benchmarks.towers import towers
from benchmarks.training import dpmpp_step, stage1, step
from occplug.utils.measuring import machine

__all__ = ["BENCHMARKS", "Comparison", "Rows", "machine", "table"]

BENCHMARKS: dict[str, Callable[[bool], Comparison | Rows]] = {
    "ranking": ranking,
    "reranking": reranking,
    "part_distance": part_distances,
    "masked_distance": masked_distances,
    "stage1": stage1,
    "step": step,
    "dpmpp_step": dpmpp_step,
    "scaling": scaling,
    "ag_reid_test": ag_reid_test,
    "loading": loading,
    "augment": augment,
    "amp": amp,
    "embed": embed,
    "embed_turns": embed_turns,
    "embed_memory": embed_memory,
    "engines": engines,
    "effort": effort,
    "engines_many": engines_many,
    "wgff": wgff,
    "ska": ska,
    "towers": towers,
    "components": components,
}
