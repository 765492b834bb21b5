"""The data manager: same batches for any number of workers, combined sources, errors that reach the user."""

import random

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from occplug.config import default_config
from occplug.data.manager import DataManager, GeneratedDataManager
from occplug.errors import ConfigError, DataError
from occplug.utils.imagefile import original_message

SMALL = ["data.height", 32, "data.width", 16, "train.batch_size", 8, "test.batch_size", 5, "data.workers", 0]
SMALL += ["sampler.train_sampler", "identity", "data.transforms", ["random_flip", "pad_crop", "random_erase_pixel"]]


def market(root, ids=(2, 5, 9), per_id=5, first_camera=1):
    """A Market-like tree (Occluded-Duke's layout) of small random pictures."""
    rng = np.random.default_rng(0)
    folder = root / "Occluded_Duke"

    def write(split, pid, camera, k):
        path = folder / split / f"{pid:04d}_c{camera}_f{k:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 20, 3), dtype=np.uint8)).save(path)

    for pid in ids:
        for k in range(per_id):
            write("bounding_box_train", pid, first_camera + k % 2, k)
    for pid in (70, 71):
        write("query", pid, 1, 100)
        for k in range(3):
            write("bounding_box_test", pid, 2, k)
    return root


def manager(root, *options):
    cfg = default_config("clip_reid", "clip_vit_tiny", ["data.root", str(root), "data.sources", ["occluded_duke"],
                         "data.targets", ["occluded_duke"], *SMALL, *options])  # fmt: skip
    return DataManager(cfg)


def epochs(data, count=2):
    seen = []
    for epoch in range(count):
        data.set_epoch(epoch)
        seen.append(list(data.train_loader))
    data.close()
    return seen


def test_a_test_needs_no_training_set(tmp_path):
    market(tmp_path)
    options = ["data.root", str(tmp_path), "data.sources", ["occluded_reid"], "data.targets", ["occluded_duke"], *SMALL]
    cfg = default_config("clip_reid", "clip_vit_tiny", [*options, "train.batch_size", 5000])
    data = DataManager(cfg, trains=False)
    assert set(data.sets) == {"occluded_duke"} and data.train_loader is None and data.num_train_pids == 0
    assert len(next(iter(data.test_loader["occluded_duke"]["query"]))["pid"]) == 2
    data.close()
    with pytest.raises(DataError, match="occluded_reid"):
        DataManager(cfg, trains=False, sources=True)


def test_persons_held_out_must_leave_some(tmp_path):
    market(tmp_path)
    with pytest.raises(ConfigError, match="the training set has 0 images.*lower ensemble.held_out"):
        manager(tmp_path, "ensemble.held_out", 1.0)


def test_any_number_of_workers_gives_the_same_batches(tmp_path):
    market(tmp_path)
    alone = epochs(manager(tmp_path))
    torch.manual_seed(99)
    random.seed(99)
    helped = epochs(manager(tmp_path, "data.workers", 2))
    for one, other in zip(sum(alone, []), sum(helped, [])):
        assert torch.equal(one["img"], other["img"]) and one["impath"] == other["impath"]
    assert not torch.equal(alone[0][0]["img"], alone[1][0]["img"]), "epochs differ"


def test_what_transforms_draw_does_not_reach_the_process_random_states(tmp_path):
    """Losses and samplers would otherwise depend on the number of workers."""
    market(tmp_path)
    after = []
    for options in ([], ["data.transforms", ["random_flip"]], ["data.workers", 1]):
        data = manager(tmp_path, *options)
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        list(data.train_loader)
        after.append((torch.rand(1).item(), random.random(), np.random.rand()))
        data.close()
    assert after[0] == after[1] == after[2]


def test_batches_carry_what_methods_need(tmp_path):
    data = manager(market(tmp_path))
    (batch, *_) = list(data.train_loader)
    assert batch["img"].shape == (8, 3, 32, 16) and batch["img"].dtype == torch.float32
    assert batch["pid"].dtype == batch["camid"].dtype == torch.int64
    for path, pid, camid in zip(batch["impath"], batch["pid"].tolist(), batch["camid"].tolist()):
        name = path.rsplit("/", 1)[1]
        assert data.pids[pid] == int(name[:4]) and camid == int(name[6]) - 1
    assert data.pids == [2, 5, 9] and (data.num_train_pids, data.num_train_cams) == (3, 2)


def test_cached_images_come_in_order_without_augmentation(tmp_path):
    data = manager(market(tmp_path))
    rows = list(data.cache_loader(4))
    assert [len(r["pid"]) for r in rows] == [4, 4, 4, 3]
    assert sum((r["impath"] for r in rows), []) == [item[0] for item in data.train_items]
    again = list(data.cache_loader(4))
    assert all(torch.equal(a["img"], b["img"]) for a, b in zip(rows, again))


def test_test_loaders_give_query_and_gallery(tmp_path):
    loaders = manager(market(tmp_path)).test_loader["occluded_duke"]
    assert [len(b["pid"]) for b in loaders["query"]] == [2] and [len(b["pid"]) for b in loaders["gallery"]] == [5, 1]


def test_two_sources_keep_their_persons_and_cameras_apart(tmp_path, monkeypatch):
    from occplug.data import manager as datamanager

    market(tmp_path / "a")
    market(tmp_path / "b", ids=(2, 30), per_id=4)
    classes = {"one": tmp_path / "a", "two": tmp_path / "b"}
    duke = datamanager.dataset_class("occluded_duke")
    monkeypatch.setattr(datamanager, "is_ours", lambda name: True)
    monkeypatch.setattr(
        datamanager, "dataset_class", lambda name: lambda **options: duke(**{**options, "root": str(classes[name])})
    )
    data = manager(tmp_path, "data.sources", ["one", "two"], "data.targets", ["one"])
    assert data.pids == [2, 5, 9, 2, 30] and data.num_train_pids == 5 and data.num_train_cams == 4
    labels = {(path.split("/")[-4], pid) for path, pid, *_ in data.train_items}
    assert labels == {("a", 0), ("a", 1), ("a", 2), ("b", 3), ("b", 4)}


def test_summary_counts_and_fingerprints(tmp_path):
    facts = manager(market(tmp_path)).summary()["occluded_duke"]
    assert (facts["train"], facts["query"], facts["gallery"], facts["train_ids"]) == (15, 2, 6, 3)
    (tmp_path / "Occluded_Duke/bounding_box_test/0070_c2_f0000001.jpg").unlink()
    from occplug.datasets import listing

    for function in vars(listing).values():
        getattr(function, "cache_clear", lambda: None)()
    assert manager(tmp_path).summary()["occluded_duke"]["fingerprint"] != facts["fingerprint"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named_also_from_a_worker(tmp_path, workers):
    market(tmp_path)
    broken = tmp_path / "Occluded_Duke/query/0070_c1_f0000100.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    loaders = manager(tmp_path, "data.workers", workers).test_loader["occluded_duke"]
    with pytest.raises(DataError) as caught:
        list(loaders["query"])
    message = original_message(caught.value)
    assert message.startswith(f"{broken}: the image is damaged") and "Traceback" not in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["train.batch_size", 64],
            "train.batch_size is 64 and the training set has 15 images, which do not make one batch; lower "
            "train.batch_size",
        ),
        (
            ["sampler.train_sampler", "RandomDomainSampler", "sampler.num_cams", 3],
            "the sampler 'RandomDomainSampler' cannot make batches of train.batch_size = 8 with sampler.num_cams = 3, "
            "sampler.num_datasets = 1: it takes equally many images of so many cameras (RandomDomainSampler) or data "
            "sets (RandomDatasetSampler), and each must have enough",
        ),
    ],
)
def test_batches_that_cannot_be_made_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError) as caught:
        manager(market(tmp_path), *options)
    assert str(caught.value) == message


@pytest.mark.parametrize("sampler", ["identity", "RandomIdentitySampler"])
def test_identity_batches_that_cannot_be_made_are_refused(tmp_path, sampler):
    chosen = ["sampler.train_sampler", sampler]
    with pytest.raises(DataError, match=r"a batch needs 4 identities .* and the training set has 3; lower train"):
        manager(market(tmp_path, per_id=8), "train.batch_size", 16, *chosen)
    with pytest.raises(DataError, match="every identity has a single training image"):
        manager(market(tmp_path / "single", range(8), per_id=1), *chosen)


SAMPLERS = {
    "identity": [],
    "RandomSampler": [],
    "RandomIdentitySampler": [],
    "RandomDomainSampler": ["sampler.num_cams", 2],
    "RandomDatasetSampler": [],
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_depends_on_seed_and_epoch_alone(tmp_path, sampler):
    """torchreid's draw from Python's, numpy's and torch's global generators."""
    market(tmp_path, per_id=9)
    orders = []
    for seed, workers, global_seed in ((1, 0, 5), (1, 1, 6), (2, 0, 5)):
        torch.manual_seed(global_seed)
        random.seed(global_seed)
        np.random.seed(global_seed)
        chosen = ["sampler.train_sampler", sampler, *SAMPLERS[sampler], "train.seed", seed, "data.workers", workers]
        passes = epochs(manager(tmp_path, *chosen), 3)
        orders.append([[batch["index"].tolist() for batch in each] for each in passes])
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][0] != orders[0][1] != orders[0][2]


def test_domain_batches_take_the_number_of_cameras_from_the_config(tmp_path):
    data = manager(market(tmp_path), "sampler.train_sampler", "RandomDomainSampler", "sampler.num_cams", 2)
    assert all(batch["camid"].tolist().count(0) == 4 for batch in data.train_loader)


ALL_TRANSFORMS = ["random_flip", "random_crop", "color_jitter", "pad_crop", "random_erase", "random_erase_pixel"]


@pytest.mark.parametrize("workers", [1, 2])
def test_all_transforms_give_the_same_with_workers_and_after_a_resume(tmp_path, workers):
    market(tmp_path)
    chosen = ["data.transforms", ALL_TRANSFORMS, "train.batch_size", 4, "sampler.num_instances", 2]
    unbroken = epochs(manager(tmp_path, *chosen), 3)
    resumed = manager(tmp_path, *chosen, "data.workers", workers)
    resumed.set_epoch(2)
    again = list(resumed.train_loader)
    resumed.close()
    assert len(unbroken[2]) > 1
    for one, other in zip(unbroken[2], again, strict=True):
        assert torch.equal(one["img"], other["img"]) and one["impath"] == other["impath"]


def test_a_pass_that_is_given_up_does_not_disturb_the_next(tmp_path):
    market(tmp_path, per_id=9)
    expected = epochs(manager(tmp_path), 2)[1]
    data = manager(tmp_path, "data.workers", 1)
    data.set_epoch(0)
    next(iter(data.train_loader))
    data.set_epoch(1)
    found = list(data.train_loader)
    data.close()
    assert all(torch.equal(a["img"], b["img"]) for a, b in zip(expected, found, strict=True))


def test_generated_data_has_the_real_size_and_pipeline():
    cfg = default_config(
        "clip_reid", "clip_vit_b16", ["train.batch_size", 8, "sampler.train_sampler", "identity", "data.workers", 0]
    )
    data = GeneratedDataManager(cfg, num_classes=8, num_cameras=4)
    rows = list(data.train_loader)
    assert rows[0]["img"].shape == (8, 3, 256, 128) and len(rows) >= 2
    assert data.num_train_pids == 8 and data.num_train_cams == 4
    (name,) = data.targets
    assert sum(len(b["pid"]) for b in data.test_loader[name]["query"]) == 8


def test_workers_start_although_opencv_has_used_its_threads(tmp_path):
    """Forked workers inherit OpenCV's pool without its threads, and would wait for them."""
    cv2.setNumThreads(2)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (31, 31), 9)  # large enough to start the pool
    market(tmp_path)
    data = manager(tmp_path, "data.workers", 2)
    assert len(list(data.train_loader)) == len(data.train_loader) > 0
    data.close()
    assert cv2.getNumThreads() == 1


def test_a_missing_or_unknown_stock_data_set_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked the network"))
    for name, told in (("cuhk03", "cuhk03: .* put the data set below"), ("synthoc", "occplug has: .*synthocc")):
        with pytest.raises((ConfigError, DataError), match=told):
            manager(tmp_path, "data.sources", [name], "data.targets", [name])
