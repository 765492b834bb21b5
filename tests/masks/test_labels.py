"""Part labels against the plain pipeline at full resolution, step by step as the specification says."""

import hypothesis
import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torchvision import tv_tensors

from occplug.config.defaults import CHOICES
from occplug.datasets.synthocc import GROUPS
from occplug.masks import NUM_CHANNELS, SCHEMES, group_channels, part_labels, places, sample_maps
from occplug.transforms import PadCrop, RandomErasePixel
from occplug.transforms.stock import RandomCrop, RandomErase, RandomFlip


def confidences(height=17, width=9, seed=0, channels=NUM_CHANNELS):
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(seed))


def resized(maps, height, width, interpolation="bicubic"):
    corners = {} if interpolation == "nearest" else {"align_corners": False}
    return F.interpolate(maps[None], (height, width), mode=interpolation, **corners)[0]


def plain_labels(maps, groups):
    """Steps 3 to 6 on full-size maps [36, H, W], in loops where that is possible."""
    parts = torch.stack([torch.stack([maps[c] for c in group]).max(dim=0).values.clamp(0, 1) for group in groups])
    background = torch.where(parts.max(dim=0).values < 0.5, 1.0, 0.0)
    stacked = 15 * torch.cat([background[None], parts])
    labels = stacked.exp() / stacked.exp().sum(dim=0)
    height, width = labels.shape[1:]
    return F.interpolate(labels[None], (height // 4, width // 4), mode="nearest")[0]


def short_labels(maps, where, groups, interpolation="bicubic"):
    height, width = where.shape[-2:]
    values = sample_maps(maps, where.as_subclass(torch.Tensor)[0, ::4, ::4], height, width, interpolation)
    return part_labels(group_channels(values, groups))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("size", [(17, 9), (256, 128), (33, 20), (1, 1)])
def test_the_short_way_gives_the_plain_pipelines_numbers(scheme, interpolation, size):
    maps, groups = confidences(*size), list(SCHEMES[scheme].values())
    expected = plain_labels(resized(maps, 256, 128, interpolation), groups)
    found = short_labels(maps, places(256, 128), groups, interpolation)
    assert found.shape == (len(groups) + 1, 64, 32) and torch.allclose(found, expected, atol=1e-5)


def test_only_rows_and_columns_that_are_multiples_of_four_count():
    maps = torch.zeros(NUM_CHANNELS, 256, 128)
    maps[15, 1:4] = maps[15, :, 1:4] = maps[15, 5] = 1
    maps[0, 8, 12] = 1
    labels = short_labels(maps, places(256, 128), SCHEMES["five_v"].values())
    assert labels[1, 2, 3] > 0.999 and labels[5].max() < 1e-3 and labels[0, 0, 0] > 0.999


def test_label_values_are_those_of_a_hand_computation():
    """One part sure by 0.6 and one by 0.2; then nothing at all; then a part at exactly one half."""
    parts = torch.tensor([[0.6, 0.0, 0.5], [0.2, 0.0, 0.0]])
    e = torch.exp(torch.tensor([9.0, 3.0, 7.5, 15.0]))
    expected = torch.tensor([
        [1 / (1 + e[0] + e[1]), e[3] / (e[3] + 2), 1 / (e[2] + 2)],
        [e[0] / (1 + e[0] + e[1]), 1 / (e[3] + 2), e[2] / (e[2] + 2)],
        [e[1] / (1 + e[0] + e[1]), 1 / (e[3] + 2), 1 / (e[2] + 2)],
    ])  # fmt: skip
    assert torch.allclose(part_labels(parts), expected, atol=1e-6)


def test_groups_take_the_largest_channel_and_clamp_overshoot():
    maps = torch.tensor([[0.2, -0.1], [0.7, -0.2], [1.2, 0.4]])
    assert torch.equal(group_channels(maps, [(0, 1), (2,)]), torch.tensor([[0.7, 0.0], [1.0, 0.4]]))


TRANSFORMS = {
    "flip": lambda: [RandomFlip(1.0)],
    "pad_crop": lambda: [PadCrop(10)],
    "resize_crop": lambda: [RandomCrop(64, 32)],
    "erase_pixel": lambda: [RandomErasePixel(prob=1.0)],
    "erase": lambda: [RandomErase([0.5] * 3)],
    "all": lambda: [RandomFlip(), PadCrop(10), RandomCrop(64, 32), RandomErase([0.5] * 3), RandomErasePixel()],
}


@pytest.mark.parametrize("chosen", TRANSFORMS)
@hypothesis.settings(max_examples=25, deadline=None, database=None)
@hypothesis.given(seed=st.integers(0, 10**6))
def test_labels_of_the_moved_places_are_labels_of_the_moved_maps(chosen, seed):
    """All 36 channels go through the transforms at full size, as the official code has it; the places give the same."""
    import random

    maps, groups = confidences(9, 5, seed), list(SCHEMES["five_v"].values())
    full, image = tv_tensors.Mask(resized(maps, 64, 32)), torch.zeros(3, 64, 32)
    results = []
    for mask in (full, places(64, 32)):
        torch.manual_seed(seed)
        random.seed(seed)
        for transform in TRANSFORMS[chosen]():
            _, mask = transform(image, mask)
        results.append(mask)
    expected = plain_labels(results[0].as_subclass(torch.Tensor), groups)
    assert torch.allclose(short_labels(maps, results[1], groups), expected, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bicubic", "nearest"])
def test_places_may_be_moved_in_any_way(interpolation):
    """A shuffle keeps no rows and columns together."""
    maps = confidences(9, 5)
    shuffled = places(64, 32).flatten()[torch.randperm(64 * 32)].view(64, 32).clone()
    shuffled[3] = 0
    found = sample_maps(maps, shuffled, 64, 32, interpolation)
    wanted = torch.cat([torch.zeros(NUM_CHANNELS, 1), resized(maps, 64, 32, interpolation).flatten(1)], dim=1)
    assert torch.allclose(found, wanted[:, shuffled.long()], atol=1e-6)


@pytest.mark.parametrize("erasing", [RandomErasePixel(prob=1.0), RandomErase([9.0] * 3)], ids=["pixel", "stock"])
def test_masks_are_zero_exactly_where_images_are_erased(erasing):
    images, mask = torch.zeros(20, 3, 64, 32), tv_tensors.Mask(torch.ones(20, 2, 64, 32, dtype=torch.int32))
    erased, moved = erasing(images, mask)
    assert isinstance(moved, tv_tensors.Mask) and torch.equal((erased != 0).all(1), moved[:, 0] == 0)
    assert torch.equal(moved[:, 0], moved[:, 1]) and (moved == 0).any() and (mask == 1).all()


def test_a_mask_does_not_change_what_erasing_does_to_images():
    images, mask = torch.zeros(8, 3, 64, 32), tv_tensors.Mask(torch.ones(8, 1, 64, 32))
    results = []
    for inputs in ((images,), (images, mask)):
        torch.manual_seed(4)
        results.append(RandomErasePixel(prob=1.0)(*inputs))
    assert torch.equal(results[0], results[1][0])


def test_schemes_are_those_of_the_specification():
    assert CHOICES["masks.scheme"] == list(SCHEMES)
    used = {scheme: sorted({c for group in groups.values() for c in group}) for scheme, groups in SCHEMES.items()}
    assert set(range(36)) - set(used["five_v"]) == {21, 22}
    assert used["eight"] == [c for c in range(36)]
    assert set(range(36)) - set(used["two_v"]) == set()
    assert [len(SCHEMES[s]) for s in ("five_v", "eight", "four_v", "three_v", "two_v")] == [5, 8, 4, 3, 2]
    assert all(len(GROUPS[scheme]) == len(groups) for scheme, groups in SCHEMES.items())
