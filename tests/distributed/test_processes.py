"""Several processes, and micro-batches, compute what one process computes on the whole batch.

In float64, so that a wrong formula cannot hide behind rounding: agreement is then to 12 digits or more.
"""

import functools
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from occplug.distributed.ranks import own_part
from tests.distributed.group import Group
from tests.distributed.trials import MODELS, TRIALS

METHODS = [name for name in MODELS if name != "osnet_x0_25"]  # the last is torchreid's engine, without stages
MICRO = ["train.micro_batch", 5]
UNEQUAL = ["train.batch_size", 10]  # five identities: three and two
NORMED = ("dpl_reid_wgff", "osnet_x0_25")  # batch norm inside what runs split
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def groups():
    made = {}

    def group(world):
        if world not in made:
            made[world] = Group(world)
        return made[world]

    yield group
    for each in made.values():
        each.close()


@functools.cache
def alone(trial, *args):
    return TRIALS[trial](*args)


def check_equal(found, expected, tolerance=1e-9):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        value, other = value.double(), found[name].double()
        if torch.equal(other, value):  # a threshold may be infinite
            continue
        # what is zero but for rounding is compared with zero
        assert torch.linalg.vector_norm(other - value) <= tolerance * torch.linalg.vector_norm(value) + 1e-12, name


STEPS = [
    *[(2, name, UNEQUAL) for name in METHODS],
    *[(1, name, MICRO) for name in METHODS if name not in NORMED],
    *[(4, name, []) for name in METHODS if name not in NORMED],  # six identities: two, two, one and one
    (2, "dpmpp", MICRO), (2, "clip_rn50", UNEQUAL), (2, "swin", []), (1, "swin", MICRO), (2, "joint", UNEQUAL),
    pytest.param(4, "dpl_reid_wgff", [], marks=SLOW),
    *[pytest.param(2, name, [], marks=SLOW) for name in METHODS],
    *[pytest.param(2, name, MICRO, marks=SLOW) for name in METHODS if name not in NORMED],
]  # fmt: skip


@pytest.mark.parametrize("world, name, options", STEPS)
def test_losses_and_gradients_of_a_step_are_those_of_one_process(groups, world, name, options):
    expected = alone("gradients", name, *(UNEQUAL if options is UNEQUAL else []))
    assert len(expected) > 50 and any(name.endswith("weight") for name in expected)
    everywhere = groups(world)("gradients", name, *options) if world > 1 else [alone("gradients", name, *options)]
    for found in everywhere:
        check_equal(found, expected)


RUNS = [
    (2, "dpl_reid", UNEQUAL), (1, "ag_reid", MICRO),
    *[pytest.param(2, name, [], marks=SLOW if name == "dpl_reid_wgff" else ()) for name in MODELS],
    *[pytest.param(4, name, [], marks=SLOW) for name in MODELS],
    *[pytest.param(1, name, MICRO, marks=SLOW) for name in MODELS if name not in (*NORMED, "ag_reid")],
]  # fmt: skip


@pytest.mark.parametrize("world, name, options", RUNS)
def test_two_epochs_leave_the_weights_of_one_process(groups, world, name, options):
    expected = alone("run", name, *(UNEQUAL if options is UNEQUAL else []))
    everywhere = groups(world)("run", name, *options) if world > 1 else [alone("run", name, *options)]
    for found in everywhere:
        check_equal(found, expected)


@pytest.mark.parametrize(
    "name, before, after, stop", [("profd", 2, 1, ("train", 1)), ("clip_reid", 1, 2, ("stage1", 1))]
)
def test_a_run_goes_on_on_another_number_of_processes(groups, tmp_path, name, before, after, stop):
    def run(world, **options):
        options = {"folder": str(tmp_path), **options}
        return groups(world)("run", name, **options) if world > 1 else [TRIALS["run"](name, **options)]

    run(before, stop_after=stop)
    for found in run(after, resume=True):
        check_equal(found, alone("run", name))


def test_embeddings_features_and_results_are_shared_out_and_gathered(groups):
    mean_ap, features, paths = alone("tested", "dpl_reid")
    for other, found, files in groups(2)("tested", "dpl_reid"):
        assert (other, files) == (mean_ap, paths)
        assert found.keys() == features.keys() and "copies 0 occluded" in found
        for name, value in features.items():
            assert torch.equal(found[name], value), name


@pytest.mark.parametrize("name, options", [("profd", []), ("dpl_reid", UNEQUAL)])
def test_each_process_decodes_its_share_of_the_same_batches(groups, name, options):
    expected = alone("batches", name, *options)
    for found in groups(2)("batches", name, *options):
        for batch, whole in zip(found, expected, strict=True):
            assert batch["impath"] == whole["impath"]
            for key in {"pid", "camid", "index", "masks"} & whole.keys():
                assert torch.equal(batch[key], whole[key]), key
            assert torch.equal(batch["images"], whole.get("images", whole.get("img")))


@pytest.mark.parametrize(
    "kind, message",
    [
        ("differing", "DataError: the processes of this run differ; the cure\n  seed is 0 on rank 0 and 1 on rank 1"),
        ("main", "ConfigError: refused by rank 0"),
        ("not finite", "TrainingError: stage2, epoch 1, batch 1: .*nan"),
        ("apart", "TrainingError: the weights weight of the processes differ"),
        ("draws", "TrainingError: Drawing draws random numbers for the images of one process"),
        ("random", "TrainingError: the random numbers of the processes differ"),
    ],
)
def test_a_fault_of_one_process_ends_all(groups, kind, message):
    for answer in groups(2).failures("failing", kind):
        assert re.match(message, answer, re.DOTALL), answer


@pytest.fixture
def roots(tmp_path):
    """Two folders with the same small data set and its masks."""
    for place in ("one", "two"):
        for side in ("bounding_box_train", "query", "bounding_box_test"):
            folder = tmp_path / place / "market1501" / side
            folder.mkdir(parents=True)
            for pid in range(1, 7):
                for camera in (1, 2):
                    name = f"{pid + 10 * (side != 'bounding_box_train'):04}_c{camera}s1_000001_00.jpg"
                    Image.new("RGB", (8, 16), (20 * pid, 0, 0)).save(folder / name)
                    masks = tmp_path / place / "market1501" / "masks" / "parts" / side
                    masks.mkdir(parents=True, exist_ok=True)
                    np.save(masks / f"{name}.npy", np.zeros((36, 4, 2), np.float32))
    return tmp_path / "one", tmp_path / "two"


TRAINING_IMAGE = "market1501/bounding_box_train/0003_c2s1_000001_00.jpg"
GALLERY_IMAGE = "market1501/bounding_box_test/0013_c1s1_000001_00.jpg"
MASK = "market1501/masks/parts/bounding_box_train/0003_c2s1_000001_00.jpg.npy"


@pytest.mark.parametrize(
    "file, named",
    [(TRAINING_IMAGE, TRAINING_IMAGE), (GALLERY_IMAGE, GALLERY_IMAGE), (MASK, f"the mask of {TRAINING_IMAGE}")],
)
def test_other_files_on_another_machine_end_all_at_the_start(groups, roots, file, named):
    words = [str(root) for root in roots]
    assert groups(2)("same_start", words) == [None, None]
    replaced = roots[1] / file
    replaced.unlink()
    np.save(replaced, np.zeros((36, 5, 2), np.float32)) if file is MASK else Image.new("RGB", (80, 160)).save(replaced)
    for answer in groups(2).failures("same_start", words):
        assert re.search(
            f"DataError: the processes of this run differ.*the size of {named} is \\d+ on rank 0", answer, re.S
        )


def test_other_initial_weights_on_another_machine_end_all_at_the_start(groups):
    for answer in groups(2).failures("same_start", [], True):
        assert re.search("DataError: .*the digest of the initial weight is", answer, re.DOTALL), answer


def test_batch_norm_does_not_take_micro_batches(groups):
    with pytest.raises(Exception, match="train.micro_batch is 5, but the batch norm .*lsnet.* takes its statistics"):
        TRIALS["gradients"]("dpl_reid_wgff", *MICRO)


@pytest.mark.parametrize(
    "options, message",
    [
        (["train.batch_size", 9, "sampler.num_instances", 3], "is 9, .* cannot be dealt evenly to 2 of them"),
        (["train.batch_size", 8, "sampler.num_instances", 8], "a batch has 1 identities"),
    ],
)
def test_batches_that_cannot_be_dealt_are_refused(groups, options, message):
    for answer in groups(2).failures("batches", "clip_reid", *options):
        assert re.search(message, answer), answer


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_one_process_makes_the_cache_that_all_read(groups, tmp_path, where):
    paths = [str(tmp_path / f"{number}.png") for number in range(5)]
    for number, path in enumerate(paths):
        Image.new("RGB", (9, 7), (number, 2 * number, 3 * number)).save(path)
    found = groups(2)("cached", where.replace("folder", str(tmp_path / "cache")), paths)
    assert [made for _, made, _ in found] == [True, False]
    assert len({file for file, *_ in found}) == 1 and [mean for *_, mean in found] == [4, 4]


def test_processes_that_start_again_have_their_own_part_of_the_store():
    store = dist.HashStore()
    store.set("occplug/question 2", "of a process that is gone")
    with ThreadPoolExecutor(3) as pool:
        for world in (3, 3, 2):
            parts = list(pool.map(functools.partial(own_part, store, world=world), range(world)))
            assert sorted(part.add("here", 1) for part in parts) == [1, 2, 3][:world]
