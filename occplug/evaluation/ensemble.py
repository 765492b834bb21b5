r"""Several models as one: a weighted sum of their distances, each divided by its unit.

    distance = sum_m w_m d_m / s_m        w_m >= 0, sum_m w_m = 1

s_m, the unit, is the standard deviation of model m's distances between images of different identities. Units and
weights are chosen on images of training identities (`choose_ensemble`) and then fixed: nothing of the test split
enters them. Where no identity was left out of training, weights are equal.
Within a query's ranking an added constant changes nothing, so none is subtracted.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from occplug import _moved
from occplug.embedding import Embedding
from occplug.errors import DataError
from occplug.evaluation.ranking import rank_distances

__all__ = ["Ensemble", "EnsembleEmbedding", "choose_ensemble"]

__getattr__ = _moved.older_names(__name__)

Distance = Callable[[Embedding, Embedding], Tensor]
_STEPS = {2: 50, 3: 20, 4: 10}  # of the grid of weights, by the number of models; 4 for more


@dataclass
class EnsembleEmbedding:
    """What each of M models says about the same B images; `len()` and slicing act on all."""

    models: list[Embedding]

    def __len__(self) -> int:
        return len(self.models[0])

    def __getitem__(self, index) -> EnsembleEmbedding:
        return EnsembleEmbedding([each[index] for each in self.models])


@dataclass(frozen=True)
class Ensemble:
    """How the distances of M models are added.

    Args:
        weights: [M], at least 0, sum 1.
        units: [M] standard deviations of the models' distances between different identities.
        mAP: on the identities they were chosen on.
        alone: [M] mAP of each model there.
    """

    weights: tuple[float, ...]
    units: tuple[float, ...]
    mAP: float
    alone: tuple[float, ...]

    def matcher(self, matchers: Sequence[Distance]) -> Callable[[EnsembleEmbedding, EnsembleEmbedding], Tensor]:
        """The older name of `distance`; removed in the next version."""
        return self.distance(matchers)

    def distance(self, distances: Sequence[Distance]) -> Callable[[EnsembleEmbedding, EnsembleEmbedding], Tensor]:
        """The weighted sum [Q, G] of the models' `distances`; one of weight 0 is not computed."""

        def total(query: EnsembleEmbedding, gallery: EnsembleEmbedding) -> Tensor:
            models = zip(self.weights, self.units, distances, query.models, gallery.models)
            parts = (distance(q, g) * (weight / unit) for weight, unit, distance, q, g in models if weight)
            return functools.reduce(torch.add, parts)

        return total


def choose_ensemble(
    models: Sequence[Distance], images: EnsembleEmbedding, pids, camids, equal: bool = False
) -> Ensemble:
    """The ensemble with the highest mAP on `images`; among equals the one nearest to equal weights.

    Of every identity and camera the first image is a query, all others are the gallery. All weights on a grid are
    tried, of steps of 0.02 for two models and coarser for more.

    Args:
        models: M models' distances.
        images: embeddings of N images, none of them of the test split.
        pids, camids: [N] integers.
        equal: give every model the weight 1 / M, for models that were trained on these identities: the one that
            fits them best would win, not the best one. Units are computed all the same.

    Raises:
        DataError: fewer than two identities, or no image has another of its identity from another camera.
    """
    pids, camids = np.asarray(pids), np.asarray(camids)
    query, gallery = _split(pids, camids)
    if len(set(pids.tolist())) < 2 or not len(query) or not len(gallery):
        raise DataError("weights need several identities, each with images of two cameras at least; there are too few")
    q, g = images[query.tolist()], images[gallery.tolist()]
    strangers = torch.as_tensor(pids[query][:, None] != pids[gallery])
    distances, units = [], []
    for model, one, other in zip(models, q.models, g.models):
        distance = model(one, other).detach().cpu()
        units.append(float(distance[strangers].double().std()) or 1.0)
        distances.append(distance / units[-1])
    ids = (pids[query], pids[gallery], camids[query], camids[gallery])
    count = len(distances)
    candidates = [(1 / count,) * count] if equal else _grid(count)
    tried = {weights: _mean_ap(distances, weights, ids) for weights in candidates}
    best = max(tried, key=lambda weights: (round(tried[weights], 9), -_distance_to_equal(weights)))
    alone = tuple(_mean_ap(distances, tuple(corner), ids) for corner in np.eye(count).tolist())
    return Ensemble(best, tuple(units), tried[best], alone)


def _split(pids: np.ndarray, camids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the queries (the first image of each identity and camera) and of the gallery (the others)."""
    taken: set[tuple[int, int]] = set()
    is_query = np.zeros(len(pids), bool)
    for place, key in enumerate(zip(pids.tolist(), camids.tolist())):
        is_query[place] = key not in taken
        taken.add(key)
    return np.flatnonzero(is_query), np.flatnonzero(~is_query)


def _grid(models: int) -> list[tuple[float, ...]]:
    """All weights of `models` models whose sum is 1, in steps of 1 / n."""
    steps = _STEPS.get(models, 4)
    cuts = itertools.combinations_with_replacement(range(steps + 1), models - 1)
    return [tuple((b - a) / steps for a, b in itertools.pairwise((0, *cut, steps))) for cut in cuts]


def _mean_ap(distances: list[Tensor], weights: tuple[float, ...], ids: Sequence[np.ndarray]) -> float:
    total = functools.reduce(torch.add, (weight * each for weight, each in zip(weights, distances)))
    q_pids, g_pids, q_camids, g_camids = ids
    return rank_distances(total.numpy(), q_pids, g_pids, q_camids, g_camids, max_rank=1).mAP


def _distance_to_equal(weights: tuple[float, ...]) -> float:
    return sum((weight - 1 / len(weights)) ** 2 for weight in weights)
