"""From embeddings to figures: distances, CMC and mAP, re-ranking, the protocol line. Knows no model."""

from occplug import _moved
from occplug.evaluation.distances import cosine_distance, squared_euclidean
from occplug.evaluation.ensemble import Ensemble, EnsembleEmbedding, choose_ensemble
from occplug.evaluation.extract import extract
from occplug.evaluation.histogram import color_histogram
from occplug.evaluation.linear_probe import Probe, linear_probe, slot_accuracies
from occplug.evaluation.listing import Lister, RankedLists, ranked_file, ranked_lists, read_ranked
from occplug.evaluation.mask_quality import (
    channel_correlations,
    correlation,
    intersection_over_union,
    mask_statistics,
    rank_correlation,
)
from occplug.evaluation.masked import MASK_PLACES, masked_cosine, masked_distance
from occplug.evaluation.metric import Metric
from occplug.evaluation.parts import part_distance
from occplug.evaluation.per_query import PerQuery, per_query_file, read_per_query
from occplug.evaluation.protocol import protocol_line
from occplug.evaluation.ranking import (
    Ranker,
    RankResult,
    by_group,
    evaluate_embeddings,
    evaluate_rank,
    rank_distances,
)
from occplug.evaluation.reranking import re_ranking, rerank_embeddings, reranking_inputs
from occplug.evaluation.significance import PairedDifference, paired_bootstrap

__all__ = [
    "EnsembleEmbedding",
    "Ensemble",
    "MASK_PLACES",
    "Metric",
    "PairedDifference",
    "PerQuery",
    "Probe",
    "Lister",
    "RankResult",
    "RankedLists",
    "Ranker",
    "by_group",
    "choose_ensemble",
    "channel_correlations",
    "color_histogram",
    "correlation",
    "cosine_distance",
    "evaluate_embeddings",
    "evaluate_rank",
    "extract",
    "intersection_over_union",
    "mask_statistics",
    "masked_cosine",
    "masked_distance",
    "linear_probe",
    "paired_bootstrap",
    "part_distance",
    "protocol_line",
    "rank_correlation",
    "rank_distances",
    "ranked_file",
    "ranked_lists",
    "read_ranked",
    "re_ranking",
    "rerank_embeddings",
    "per_query_file",
    "read_per_query",
    "reranking_inputs",
    "slot_accuracies",
    "squared_euclidean",
]

__getattr__ = _moved.older_names(__name__)
