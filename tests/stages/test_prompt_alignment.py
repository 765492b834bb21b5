"""The cache of plain and occluded features: what is in a batch, which copy an epoch sees, that it is repeatable."""

import pytest
import torch

from occplug.config import load_config
from occplug.data.manager import GeneratedDataManager
from occplug.errors import DataError
from occplug.losses import SupCon
from occplug.stages import CLEAN, OCCLUDED, FeatureCache, OccludedViews, Pair

CPU = torch.device("cpu")
EXPECTED_SHARE = 0.5


def manager():
    options = ["data.height", 32, "data.width", 16, "data.workers", 0, "train.batch_size", 8]
    return GeneratedDataManager(load_config("configs/clip_reid_synthocc.yaml", options), num_classes=16)


def encode(images):
    return images.flatten(1)[:, ::7]


def filled(data, **options):
    cache = FeatureCache(encode, 10, OccludedViews("random_erase_pixel", **{"prob": EXPECTED_SHARE, **options}))
    cache.fill(data, CPU)
    return cache


def test_plain_features_are_those_of_the_images_in_order():
    data = manager()
    cache = FeatureCache(encode, 10)
    cache.fill(data, CPU)
    expected = torch.cat([encode(batch["img"]) for batch in data.cache_loader(7)])
    assert torch.equal(cache.features, expected)
    assert cache.labels.tolist() == [pid for _, pid, *_ in data.train_items]
    assert {name for batch in cache for name in batch} == {CLEAN, "pid"}


def test_options_an_augmentation_refuses_stop_it_before_the_long_pass():
    views = OccludedViews("rwoa", 0.5)
    options = ["data.workers", 0, "train.batch_size", 8, "augment.rwoa.library", "nowhere"]
    data = GeneratedDataManager(load_config("configs/clip_reid_synthocc.yaml", options), num_classes=16)
    with pytest.raises(DataError, match="nowhere: there is no such folder of occluders"):
        FeatureCache(lambda images: pytest.fail("encoded"), 10, views).fill(data, CPU)


def test_rows_of_a_batch_belong_together():
    cache = filled(manager())
    copies = cache.draws[0]
    seen = 0
    for batch in cache:
        for row in range(len(batch["pid"])):
            (at,) = (cache.features == batch[CLEAN][row]).all(dim=1).nonzero()[:, 0].tolist()
            assert torch.equal(batch[OCCLUDED][row], copies[OCCLUDED][at])
            assert (batch["pid"][row], batch["occluded"][row]) == (cache.labels[at], copies["occluded"][at])
            seen += 1
    assert seen == len(cache.labels) == 64


@pytest.mark.parametrize("only, name", [(True, "occluded_rows"), (False, "plain_rows")])
def test_the_rows_a_batch_brings_are_those_of_its_flags(only, name):
    """Taken by their positions, features, loss and gradient are to the bit those of the flags."""
    cache = filled(manager())
    table = torch.randn(16, cache.features.shape[1], requires_grad=True)
    pair = Pair(lambda labels: table[labels], "", OCCLUDED, only)
    for batch in cache:
        chosen = batch["occluded"] == only
        assert torch.equal(batch[name], chosen.nonzero()[:, 0]) and 0 < len(batch[name]) < len(chosen)
        image, label = batch[OCCLUDED][chosen], batch["pid"][chosen]
        expected = SupCon()(image, table[label], label, label)
        flags_alone = {key: value for key, value in batch.items() if not key.endswith("_rows")}
        for each in (batch, flags_alone):
            found = pair.losses(each, SupCon())["loss_i2t"]
            assert torch.equal(found, expected)
            assert torch.equal(*(torch.autograd.grad(v, table, retain_graph=True)[0] for v in (found, expected)))


def test_copies_differ_where_and_only_where_they_are_occluded():
    cache = filled(manager())
    copies = cache.draws[0]
    same = (copies[OCCLUDED] == cache.features).all(dim=1)
    assert torch.equal(same, ~copies["occluded"])
    assert 0.3 < copies["occluded"].float().mean() < 0.7


@pytest.mark.parametrize("prob, share", [(0.0, 0), (1.0, 1)])
def test_the_share_of_occluded_images(prob, share):
    assert filled(manager(), prob=prob).draws[0]["occluded"].float().mean() == share


def test_an_epoch_uses_the_copy_of_its_number():
    data = manager()
    cache = filled(data, draws=2)
    assert not torch.equal(cache.draws[0][OCCLUDED], cache.draws[1][OCCLUDED])
    for epoch in (0, 1, 2, 5):
        data.set_epoch(epoch)
        batch = next(iter(cache))
        order = [(cache.features == row).all(dim=1).nonzero().item() for row in batch[CLEAN]]
        assert torch.equal(batch[OCCLUDED], cache.draws[epoch % 2][OCCLUDED][order])


def test_the_same_seed_makes_the_same_copies():
    first, second = filled(manager()), filled(manager())
    assert torch.equal(first.draws[0][OCCLUDED], second.draws[0][OCCLUDED])
