"""An ensemble: the formula by hand, and that weights come from training identities alone."""

import numpy as np
import pytest
import torch

from occplug.embedding import Embedding
from occplug.errors import DataError
from occplug.evaluation import Ensemble, EnsembleEmbedding, choose_ensemble, evaluate_rank, squared_euclidean

MATCHERS = [lambda q, g: squared_euclidean(q.vector, g.vector), lambda q, g: 7 * squared_euclidean(q.vector, g.vector)]


def people(persons=12, cameras=3, each=2, noise=(1.0, 1.0), seed=0):
    """Two models that see the same persons with independent noise."""
    rng = torch.Generator().manual_seed(seed)
    pids = np.repeat(np.arange(persons), cameras * each)
    camids = np.tile(np.repeat(np.arange(cameras), each), persons)
    models = []
    for size in noise:
        centres = torch.randn(persons, 4, generator=rng)
        models.append(Embedding(centres[pids] + size * torch.randn(len(pids), 4, generator=rng)))
    return EnsembleEmbedding(models), pids, camids


def test_the_mixed_distance_is_the_weighted_sum_in_units():
    images, _, _ = people(3)
    ensemble = Ensemble((0.25, 0.75), (2.0, 5.0), 0.0, (0.0, 0.0))
    found = ensemble.distance(MATCHERS)(images[:4], images[4:])
    a, b = (each.vector.double() for each in images.models)
    for i in range(4):
        for j in range(4, len(images)):
            expected = 0.25 * (a[i] - a[j]).square().sum() / 2 + 0.75 * 7 * (b[i] - b[j]).square().sum() / 5
            assert float(found[i, j - 4]) == pytest.approx(float(expected), rel=1e-4)


def test_a_model_of_weight_zero_is_not_asked():
    images, _, _ = people(3)

    def refuses(q, g):
        raise AssertionError

    ensemble = Ensemble((1.0, 0.0), (1.0, 1.0), 0.0, (0.0, 0.0))
    assert torch.equal(ensemble.distance([MATCHERS[0], refuses])(images, images), MATCHERS[0](*[images.models[0]] * 2))


def test_the_chosen_weights_are_the_best_of_the_grid():
    images, pids, camids = people(noise=(1.0, 1.3))
    found = choose_ensemble(MATCHERS, images, pids, camids)
    first = {}
    for place, key in enumerate(zip(pids, camids)):
        first.setdefault(key, place)
    query = sorted(first.values())
    gallery = [i for i in range(len(pids)) if i not in query]
    scaled, units = [], []
    for match, each in zip(MATCHERS, images.models):
        d = match(each[query], each[gallery]).double().numpy()
        units.append(np.std([d[i, j] for i in range(len(query)) for j in range(len(gallery))
                             if pids[query[i]] != pids[gallery[j]]], ddof=1))  # fmt: skip
        scaled.append(d / units[-1])
    assert found.units == pytest.approx(units, rel=1e-5)
    ids = (pids[query], pids[gallery], camids[query], camids[gallery])
    by_weight = {k / 50: evaluate_rank(k / 50 * scaled[0] + (1 - k / 50) * scaled[1], *ids)[1] for k in range(51)}
    best = max(by_weight.values())
    assert found.mAP == pytest.approx(best, abs=1e-6) and by_weight[found.weights[0]] == pytest.approx(best, abs=1e-6)
    assert found.alone == pytest.approx((by_weight[1.0], by_weight[0.0]), abs=1e-6)
    assert found.mAP > max(found.alone) and sum(found.weights) == pytest.approx(1)


def test_a_useless_model_gets_little_and_a_models_unit_does_not_matter():
    images, pids, camids = people(noise=(0.3, 50.0))
    found = choose_ensemble(MATCHERS, images, pids, camids)
    assert found.weights[0] >= 0.8
    tenfold = [MATCHERS[0], lambda q, g: 10 * MATCHERS[1](q, g)]
    again = choose_ensemble(tenfold, images, pids, camids)
    assert again.weights == found.weights and again.units[1] == pytest.approx(10 * found.units[1], rel=1e-5)


def test_equal_models_are_mixed_equally():
    images, pids, camids = people()
    same = EnsembleEmbedding([images.models[0]] * 2)
    assert choose_ensemble([MATCHERS[0]] * 2, same, pids, camids).weights == (0.5, 0.5)


def test_equal_weights_can_be_asked_for():
    images, pids, camids = people(noise=(0.3, 50.0))
    free = choose_ensemble(MATCHERS, images, pids, camids)
    found = choose_ensemble(MATCHERS, images, pids, camids, equal=True)
    assert found.weights == (0.5, 0.5) and free.weights[0] > 0.5 and found.mAP < free.mAP
    assert (found.units, found.alone) == (free.units, free.alone)


def test_three_models():
    images, pids, camids = people(noise=(1.0, 1.0, 1.0))
    found = choose_ensemble([MATCHERS[0]] * 3, images, pids, camids)
    assert sum(found.weights) == pytest.approx(1) and min(found.weights) >= 0 and found.mAP > max(found.alone)


def test_too_few_persons():
    images, pids, camids = people(persons=1)
    with pytest.raises(DataError, match="several identities, each with images of two cameras"):
        choose_ensemble(MATCHERS, images, pids, camids)
    images, pids, camids = people(each=1)
    with pytest.raises(DataError, match="there are too few"):
        choose_ensemble(MATCHERS, images, pids, camids)
