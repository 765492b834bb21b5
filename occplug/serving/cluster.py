"""Who is the same over many pictures, by the method's distance."""

from __future__ import annotations

import math
from numbers import Real

import numpy as np
import torch

from occplug.embedding import check_embedding
from occplug.errors import ConfigError, DataError
from occplug.serving.extractor import Extractor

__all__ = ["WAYS", "check_number", "choose_way", "cluster", "distance_matrix"]

WAYS = ("agglomerative", "hdbscan")
MOST = 20_000  # pictures: the matrix of their distances takes 1.6 GB


@torch.no_grad()
def distance_matrix(model: Extractor, embedding) -> np.ndarray:
    """[N, N] float32 distances of all pictures to each other; of a distance that has a direction, the mean of both."""
    check_number(len(embedding))
    matrix = np.concatenate(
        [model.distances(embedding[i : i + 256], embedding).numpy() for i in range(0, len(embedding), 256)]
    )
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, 0)
    return matrix


def cluster(
    model: Extractor, embedding, way: str | None = None, threshold: float | None = None, least: int = 2
) -> np.ndarray:
    """[N] whole numbers, the group of each picture; -1 for one that belongs to nobody.

    Args:
        embedding: of N pictures.
        way: "agglomerative" (average linkage, cut at `threshold`) or "hdbscan", which needs no threshold; by default
            the first where a threshold is known.
        threshold: distance up to which two groups are one; by default the one at which a calibrated model is undecided.
        least: pictures of a group of hdbscan.

    Raises:
        ConfigError: as :func:`choose_way`.   DataError: more pictures than can be compared, or no embedding.
    """
    way = choose_way(model, way, threshold)
    check_embedding(embedding)
    if len(embedding) < 2:
        return np.zeros(len(embedding), int)
    distances = distance_matrix(model, embedding)
    if way == "hdbscan":
        from sklearn.cluster import HDBSCAN

        return HDBSCAN(min_cluster_size=max(least, 2), metric="precomputed", copy=True).fit_predict(distances)
    from sklearn.cluster import AgglomerativeClustering

    if threshold is None:
        threshold = _undecided(model, distances)
    options = {"n_clusters": None, "metric": "precomputed", "linkage": "average", "distance_threshold": threshold}
    return AgglomerativeClustering(**options).fit_predict(distances)


def choose_way(model: Extractor, way: str | None = None, threshold: float | None = None) -> str:
    """The way that `cluster` takes for these arguments, before anything is embedded for it.

    Raises:
        ConfigError: another way, a threshold that is no distance, one for hdbscan, which takes none, or neither a
            threshold nor a calibration for agglomerative.
    """
    if way is not None and way not in WAYS:
        raise ConfigError(f"way is {way!r}; there are: {', '.join(WAYS)}")
    if threshold is not None and not (isinstance(threshold, Real) and math.isfinite(threshold) and threshold >= 0):
        raise ConfigError(f"threshold is {threshold!r}; it is a distance, a finite number of at least 0")
    if way == "hdbscan" and threshold is not None:
        raise ConfigError(f"threshold is {threshold}, and hdbscan takes none; leave it out, or take way agglomerative")
    calibrated = bool(model.weights is not None and model.weights.calibration)
    way = way or ("agglomerative" if threshold is not None or calibrated else "hdbscan")
    if way == "agglomerative" and threshold is None:
        _ = model.calibration  # says what to run where there is none
    return way


def check_number(count: int) -> None:
    """Raise DataError for more pictures than can be compared all with all."""
    if count > MOST:
        raise DataError(f"{count:,} pictures are too many to compare all with all; {MOST:,} at most")


def _undecided(model: Extractor, distances: np.ndarray) -> float:
    """The distance at which the calibrated model gives one half. Raises ConfigError without a calibration."""
    known = model.calibration
    grid = np.linspace(0, float(distances.max()), 1000)
    common = None if not known.edges else np.full(len(grid), 1.0)
    likely = grid[known.probability(grid, common) >= 0.5]
    return float(likely.max()) if len(likely) else 0.0
