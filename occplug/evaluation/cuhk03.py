"""torchreid's CUHK03 metric with the figures of every query."""

from __future__ import annotations

import dataclasses

from occplug.evaluation.ranking import RankResult, rank_distances
from occplug.torchreid_host import stock_cuhk03

__all__ = ["evaluate_cuhk03"]


def evaluate_cuhk03(distmat, q_pids, g_pids, q_camids, g_camids, max_rank: int = 50) -> RankResult:
    """torchreid's CUHK03 metric as a `RankResult`; also works on numpy 1.24 to 1.26.

    The CMC is the mean over ten draws (numpy's global generator) of one gallery image per person; mAP and the figures
    per query are those of the whole gallery. Arguments and errors as `occplug.evaluation.rank_distances`.
    """
    case = (distmat, q_pids, g_pids, q_camids, g_camids, max_rank)
    result = rank_distances(*case)
    cmc, mean_ap = stock_cuhk03(*case)
    return dataclasses.replace(result, cmc=cmc, mAP=float(mean_ap))
