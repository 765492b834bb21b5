"""torchreid's transforms by name: the pixels its own builder gives with the same seeds."""

import contextlib
import io
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from occplug import torchreid_host as host
from occplug.transforms import RandomPatch, build_pipeline

MEAN, STD = [0.5, 0.4, 0.3], [0.5, 0.25, 0.2]


def picture(height=90, width=47, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def torchreids(names):
    with contextlib.redirect_stdout(io.StringIO()):
        train, _ = host.sub("data.transforms").build_transforms(
            64, 32, transforms=list(names), norm_mean=MEAN, norm_std=STD
        )
    return train


def seeded(seed, function, *args):
    torch.manual_seed(seed)
    random.seed(seed)
    return function(*args)


@pytest.mark.parametrize(
    "names",
    [
        ["random_flip"],
        ["random_crop"],
        ["color_jitter"],
        ["random_erase"],
        ["random_flip", "random_crop", "color_jitter", "random_erase"],
    ],
    ids="+".join,
)
def test_same_seeds_same_pixels_as_torchreid(names):
    ours, theirs = build_pipeline(names, 64, 32, MEAN, STD), torchreids(names)
    plain, changed = build_pipeline([], 64, 32, MEAN, STD)(picture()), 0
    for seed in range(30):
        result = seeded(seed, ours, picture())
        assert torch.allclose(result, seeded(seed, theirs, picture()), atol=1e-6)
        changed += not torch.equal(result, plain)
    assert changed >= 8


def test_patches_are_torchreids_too():
    """The pool fills with the first 100 images; then half of the images get a patch."""
    ours, theirs = build_pipeline(["random_patch"], 64, 32, MEAN, STD), torchreids(["random_patch"])
    images = [picture(64, 32, seed) for seed in range(130)]
    results = seeded(0, lambda: [ours(image) for image in images])
    expected = seeded(0, lambda: [theirs(image.copy()) for image in images])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(results, expected))
    plain = build_pipeline([], 64, 32, MEAN, STD)
    assert 5 <= sum(not torch.equal(a, plain(image)) for a, image in zip(results, images)) <= 25


def test_a_patch_leaves_the_callers_picture_and_the_mask_alone():
    transform, images = RandomPatch(), [picture(64, 32, seed) for seed in range(130)]
    before = [image.tobytes() for image in images]
    mask = tv_tensors.Mask(torch.arange(64 * 32, dtype=torch.uint8).view(1, 64, 32))
    for image in images:
        assert transform({"img": image, "mask": mask})["mask"] is mask
    assert [image.tobytes() for image in images] == before


@pytest.mark.parametrize("seed", range(5))
def test_a_mask_follows_random_crop(seed):
    """Of a picture in four flat quarters, a mask that numbers them stays on them but for the blurred borders."""
    quarters = np.array([[40, 90], [140, 220]], np.uint8).repeat(32, 0).repeat(16, 1)
    image = Image.fromarray(np.stack([quarters] * 3, -1))
    pipeline = build_pipeline(["random_crop"], 64, 32, MEAN, STD)
    moved = seeded(seed, pipeline.per_image.sample, {"img": image, "mask": tv_tensors.Mask(quarters[None].copy())})
    agree = moved["mask"].as_subclass(torch.Tensor)[0] == moved["img"][0]
    assert agree.float().mean() > 0.9
