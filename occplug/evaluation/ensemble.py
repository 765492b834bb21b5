r"""Several models as one: a weighted sum of their distances, each in its own unit.

    distance = sum_m w_m d_m / s_m        w_m >= 0, sum_m w_m = 1

s_m, the unit, is the standard deviation of model m's distances between pictures of different persons. Units and weights
are found on pictures of training persons (`choose_weights`) and then fixed: nothing of the test split enters them.
Where no person was left out of training, weights are equal.
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

from occplug.embedding import Embedding
from occplug.errors import DataError
from occplug.evaluation.ranking import rank_distances

__all__ = ["MixedEmbedding", "Mixture", "choose_weights"]

Matcher = Callable[[Embedding, Embedding], Tensor]
_STEPS = {2: 50, 3: 20, 4: 10}  # of the grid of weights, by the number of models; 4 for more


@dataclass
class MixedEmbedding:
    """What each of M models says about the same B images; `len()` and slicing act on all."""

    models: list[Embedding]

    def __len__(self) -> int:
        return len(self.models[0])

    def __getitem__(self, index) -> MixedEmbedding:
        return MixedEmbedding([each[index] for each in self.models])


@dataclass(frozen=True)
class Mixture:
    """How M models are mixed.

    Args:
        weights: [M], at least 0, sum 1.
        units: [M] standard deviations of the models' distances between different persons.
        mAP: on the persons they were chosen on.
        alone: [M] mAP of each model there.
    """

    weights: tuple[float, ...]
    units: tuple[float, ...]
    mAP: float
    alone: tuple[float, ...]

    def matcher(self, matchers: Sequence[Matcher]) -> Callable[[MixedEmbedding, MixedEmbedding], Tensor]:
        """The mixed distance [Q, G] from the models' own; a model of weight 0 is not asked."""

        def mixed(query: MixedEmbedding, gallery: MixedEmbedding) -> Tensor:
            models = zip(self.weights, self.units, matchers, query.models, gallery.models)
            parts = (match(q, g) * (weight / unit) for weight, unit, match, q, g in models if weight)
            return functools.reduce(torch.add, parts)

        return mixed


def choose_weights(matchers: Sequence[Matcher], images: MixedEmbedding, pids, camids, equal: bool = False) -> Mixture:
    """The mixture with the highest mAP on `images`; among equals the one nearest to equal weights.

    Of every person and camera the first image is a query, all others are the gallery. All weights on a grid are tried,
    of steps of 0.02 for two models and coarser for more.

    Args:
        matchers: M models' distances.
        images: of N pictures, none of them of the test split.
        pids, camids: [N] integers.
        equal: give every model the weight 1 / M, for models that have seen these persons: the one that knows them best
            would win, not the best one. Units are found all the same.

    Raises:
        DataError: fewer than two persons, or no picture has another of its person from another camera.
    """
    pids, camids = np.asarray(pids), np.asarray(camids)
    query, gallery = _split(pids, camids)
    if len(set(pids.tolist())) < 2 or not len(query) or not len(gallery):
        raise DataError("weights are chosen on several persons, each seen by two cameras at least; there are too few")
    q, g = images[query.tolist()], images[gallery.tolist()]
    strangers = torch.as_tensor(pids[query][:, None] != pids[gallery])
    distances, units = [], []
    for match, one, other in zip(matchers, q.models, g.models):
        found = match(one, other).detach().cpu()
        units.append(float(found[strangers].double().std()) or 1.0)
        distances.append(found / units[-1])
    ids = (pids[query], pids[gallery], camids[query], camids[gallery])
    models = len(distances)
    candidates = [(1 / models,) * models] if equal else _grid(models)
    tried = {weights: _mean_ap(distances, weights, ids) for weights in candidates}
    best = max(tried, key=lambda weights: (round(tried[weights], 9), -_distance_to_equal(weights)))
    alone = tuple(_mean_ap(distances, tuple(corner), ids) for corner in np.eye(models).tolist())
    return Mixture(best, tuple(units), tried[best], alone)


def _split(pids: np.ndarray, camids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the queries (the first image of each person and camera) and of the gallery (the others)."""
    seen: set[tuple[int, int]] = set()
    is_query = np.zeros(len(pids), bool)
    for place, key in enumerate(zip(pids.tolist(), camids.tolist())):
        is_query[place] = key not in seen
        seen.add(key)
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
