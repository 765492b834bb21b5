"""Batch entries that a method asks for: where they come from, that they follow their image, and who must give them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from occplug.config import default_config, load_config
from occplug.data.manager import DataManager, GeneratedDataManager
from occplug.errors import ConfigError, DataError
from occplug.methods.clip_reid import CLIPReID
from occplug.registry import TRANSFORMS
from tests.data.test_manager import epochs, manager, market

CONFIG = Path(__file__).parents[2] / "configs/clip_reid_synthocc.yaml"
ALL = ["random_flip", "random_crop", "pad_crop", "random_erase", "random_erase_pixel"]
STRIPES = ["masks.source", "stripes", "data.transforms", ALL]


@pytest.fixture
def wanting(monkeypatch):
    """Makes CLIP-ReID ask for entries."""
    return lambda *names: monkeypatch.setattr(CLIPReID, "extras", staticmethod(lambda cfg: names))


def masks_of_blue(root):
    """Mask files whose head is where the picture, painted here, is white; a block per image."""
    folder = root / "Occluded_Duke"
    for number, file in enumerate(sorted((folder / "bounding_box_train").iterdir())):
        head = np.zeros((32, 16), np.float32)
        top, left = 4 * (number % 5), 4 * (number % 3)
        head[top : top + 12, left : left + 8] = 1
        pixels = np.repeat(head[..., None] * 255, 3, axis=2).astype(np.uint8)
        Image.fromarray(pixels).save(file, quality=100)
        maps = np.zeros((36, 32, 16), np.float32)
        maps[0] = head
        target = folder / "masks/pifpaf_maskrcnn_filtering/bounding_box_train" / f"{file.name}.confidence_fields.npy"
        target.parent.mkdir(parents=True, exist_ok=True)
        np.save(target, maps)
    return root


@pytest.mark.parametrize("cache", [False, True])
def test_the_head_stays_where_the_picture_is_white(tmp_path, wanting, cache):
    """After flips, enlarging crops and padding, mask and image of a real batch agree at every cell."""
    wanting("masks")
    masks_of_blue(market(tmp_path))
    chosen = ["data.transforms", ["random_flip", "pad_crop", "random_crop"], "masks.cache", str(tmp_path / "c") * cache]
    seen = 0
    for batch in sum(epochs(manager(tmp_path, *chosen), 6), []):
        assert batch["masks"].shape == (8, 6, 8, 4) and batch["masks"].dtype == torch.float32
        level = batch["img"][:, :, ::4, ::4].mean(1)
        sure = level.abs() > 0.7  # normalised black and white are -1 and 1; JPEG and bilinear enlarging blur edges
        head = batch["masks"].argmax(1) == 1
        assert torch.equal(head[sure], level[sure] > 0)
        seen += sure.sum()
    assert seen > 500


def test_erased_boxes_are_background(tmp_path, wanting):
    wanting("masks")
    chosen = [
        "masks.source",
        "stripes",
        "data.transforms",
        ["random_erase_pixel"],
        "augment.random_erase_pixel.prob",
        1.0,
    ]
    clean = manager(market(tmp_path), *chosen, "augment.random_erase_pixel.prob", 0.0)
    erased = manager(tmp_path, *chosen)
    for one, other in zip(epochs(clean)[0], epochs(erased)[0]):
        changed = (one["img"] != other["img"]).any(1)[:, ::4, ::4]
        assert changed.any() and torch.equal(other["masks"].argmax(1) == 0, changed)


def test_images_are_the_same_with_and_without_masks(tmp_path, wanting):
    market(tmp_path)
    plain = sum(epochs(manager(tmp_path, *STRIPES)), [])
    wanting("masks")
    for one, other in zip(plain, sum(epochs(manager(tmp_path, *STRIPES)), []), strict=True):
        assert torch.equal(one["img"], other["img"]) and one["impath"] == other["impath"]
        assert set(one) == {"img", "pid", "camid", "index", "impath"} and set(other) == {*one, "masks"}


def test_any_number_of_workers_gives_the_same_masks(tmp_path, wanting):
    wanting("masks")
    masks_of_blue(market(tmp_path))
    chosen = ["data.transforms", ALL, "masks.cache", str(tmp_path / "cache")]
    alone, helped = (sum(epochs(manager(tmp_path, *chosen, "data.workers", n)), []) for n in (0, 2))
    assert all(torch.equal(a["masks"], b["masks"]) for a, b in zip(alone, helped, strict=True))


def test_the_cache_loader_gives_masks_under_test_transforms(tmp_path, wanting):
    wanting("masks")
    masks_of_blue(market(tmp_path))
    for batch in manager(tmp_path).cache_loader(4):
        level = batch["img"][:, :, ::4, ::4].mean(1)
        sure = level.abs() > 0.7
        assert torch.equal((batch["masks"].argmax(1) == 1)[sure], level[sure] > 0)


def test_test_loaders_are_without(tmp_path, wanting):
    wanting("masks")
    data = manager(market(tmp_path), "masks.source", "stripes")
    assert all("masks" not in batch for batch in data.test_loader["occluded_duke"]["gallery"])


def test_missing_masks_stop_the_data_manager(tmp_path, wanting):
    wanting("masks")
    with pytest.raises(DataError, match="occluded_duke: 15 of 15 training images have no part masks .*g make-masks"):
        manager(market(tmp_path))
    manager(tmp_path, "masks.missing", "background")


def test_methods_that_ask_for_nothing_need_no_masks(tmp_path):
    assert not manager(market(tmp_path)).extras


def test_dry_runs_have_stripes(wanting):
    wanting("masks")
    options = ["train.batch_size", 8, "sampler.train_sampler", "identity", "data.workers", 0, "masks.scheme", "eight"]
    batch = next(iter(GeneratedDataManager(default_config("clip_reid", "clip_vit_b16", options)).train_loader))
    assert batch["masks"].shape == (8, 9, 64, 32)


def test_synthocc_trains_with_its_own_masks(tmp_path, wanting):
    wanting("masks")
    options = ["data.root", str(tmp_path), "synthocc.size", "tiny", "data.workers", 0, "masks.source", "synthocc"]
    cfg = load_config(CONFIG, [*options, "train.batch_size", 16, "data.transforms", []])
    data = DataManager(cfg)
    batch = next(iter(data.train_loader))
    assert batch["masks"].shape == (16, 6, 32, 16)
    shown = batch["masks"].argmax(1).flatten(1)
    share = (shown > 0).float().mean(1)
    assert 0.05 < share.min() and share.max() < 0.6
    rows = torch.arange(32).repeat_interleave(16)
    heights = [rows[(shown == part).any(0)].float().mean() for part in (1, 4, 5)]
    assert heights[0] < heights[1] < heights[2], "head above legs above feet"


# ---------------------------------------------------------------------- entries that transforms give


class Cover(v2.Transform):
    """Hides the upper left quarter of every second image, by the number of its white pixels."""

    level = "image"
    provides = ("occlusion", "occluder")

    def forward(self, sample):
        if not isinstance(sample, dict):
            return sample
        hidden = torch.zeros(1, *sample["img"].shape[-2:], dtype=torch.uint8)
        if float(torch.rand(())) < 0.5:
            return sample
        hidden[:, : hidden.shape[1] // 2, : hidden.shape[2] // 2] = 255
        return {**sample, "occlusion": tv_tensors.Mask(hidden), "occluder": 3}


@pytest.fixture
def cover():
    TRANSFORMS.register_module("cover", module=Cover)
    yield
    del TRANSFORMS.module_dict["cover"]


@pytest.mark.usefixtures("cover")
def test_what_transforms_put_into_samples_reaches_the_batch(tmp_path, wanting):
    wanting("occlusion", "occluder", "masks")
    chosen = ["data.transforms", ["cover"], "masks.source", "stripes"]
    batches = sum(epochs(manager(market(tmp_path), *chosen), 4), [])
    occluders = torch.cat([batch["occluder"] for batch in batches])
    assert set(occluders.tolist()) == {-1, 3} and occluders.dtype == torch.int64
    for batch in batches:
        assert batch["occlusion"].shape == (8, 1, 32, 16) and batch["occlusion"].dtype == torch.uint8
        assert type(batch["occlusion"]) is torch.Tensor
        assert torch.equal(batch["occlusion"].flatten(1).any(1), batch["occluder"] == 3)
        hidden = batch["occlusion"][:, 0, ::4, ::4] > 0
        assert torch.equal(batch["masks"].argmax(1) == 0, hidden), "a hidden part is no part"


@pytest.mark.usefixtures("cover")
def test_test_transforms_leave_zeros_and_minus_one(tmp_path, wanting):
    wanting("occlusion", "occluder")
    batch = next(iter(manager(market(tmp_path), "data.transforms", ["cover"]).cache_loader(4)))
    assert not batch["occlusion"].any() and batch["occluder"].tolist() == [-1] * 4 and "masks" not in batch


@pytest.mark.usefixtures("cover")
def test_an_entry_that_no_chosen_transform_gives_is_an_error(tmp_path, wanting):
    wanting("occlusion")
    with pytest.raises(ConfigError) as caught:
        manager(market(tmp_path))
    message = "clip_reid needs the batch entry 'occlusion', which none of data.transforms gives; add "
    assert str(caught.value).startswith(message) and "cover" in str(caught.value).removeprefix(message)
    assert str(caught.value).endswith(" to data.transforms")


def test_entries_nobody_knows_and_masks_from_nowhere_are_errors(tmp_path, wanting):
    wanting("depth")
    with pytest.raises(ConfigError, match="needs the batch entry 'depth', .* no registered transform does"):
        manager(market(tmp_path))
    wanting("masks")
    with pytest.raises(ConfigError) as caught:
        manager(tmp_path, "masks.source", "none")
    assert str(caught.value) == (
        "clip_reid needs part masks, but masks.source is 'none'; set it to files, stripes or synthocc"
    )


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("masks.scheme", "six", "masks.scheme is 'six'; there are: five_v, eight, four_v, three_v, two_v"),
        ("masks.source", "file", "masks.source is 'file'; there are: files, synthocc, stripes, none"),
        ("masks.interp", "area", "masks.interp is 'area'; there are: nearest, bilinear, bicubic"),
        ("masks.missing", "skip", "masks.missing is 'skip'; there are: error, background"),
        ("masks.noise", "blurred", "masks.noise is 'blurred'; there are: none, eroded, shifted, swapped"),
        ("masks.noise_strength", 1.5, "masks.noise_strength is 1.5; it must be from 0 to 1"),
    ],
)
def test_values_that_cannot_be_are_refused(key, value, message):
    with pytest.raises(ConfigError) as caught:
        default_config("clip_reid", "clip_vit_tiny", [key, value])
    assert str(caught.value).endswith(message)
