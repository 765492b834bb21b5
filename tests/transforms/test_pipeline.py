"""Pipelines against torchvision's own composition, and masks that move with their image."""

import contextlib
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms as v1
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as tvf

from occplug.errors import ConfigError
from occplug.registry import TRANSFORMS
from occplug.transforms import Resize, build_pipeline, compose_for_stock

MEAN, STD = [0.5, 0.4, 0.3], [0.5, 0.25, 0.2]


def picture(height=90, width=47, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_test_pipeline_is_pil_resize_totensor_normalize(interpolation):
    image = picture()
    resized = tvf.resize(image, [64, 32], InterpolationMode(interpolation))
    expected = tvf.normalize(tvf.to_tensor(resized), MEAN, STD)
    result = build_pipeline([], 64, 32, MEAN, STD, interpolation=interpolation)(image)
    assert torch.allclose(result, expected, atol=1e-6) and result.dtype == torch.float32


def test_training_pipeline_is_torchvisions_composition_draw_for_draw():
    """CLIP-ReID's: bicubic resize, flip, pad 10, crop, ToTensor, Normalize; per image, with the same seed."""
    steps = [v1.Resize((64, 32), InterpolationMode.BICUBIC), v1.RandomHorizontalFlip(), v1.Pad(10)]
    steps += [v1.RandomCrop((64, 32)), v1.ToTensor(), v1.Normalize(MEAN, STD)]
    ours = build_pipeline(["random_flip", "pad_crop"], 64, 32, MEAN, STD, interpolation="bicubic")
    for seed in range(40):
        torch.manual_seed(seed)
        expected = v1.Compose(steps)(picture(seed=seed))
        torch.manual_seed(seed)
        assert torch.allclose(ours(picture(seed=seed)), expected, atol=1e-6)


@pytest.mark.parametrize(("mean", "std"), [([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ([0.5] * 3, [0.5] * 3)])
def test_every_pixel_value_is_normalised_as_torchvision_does(mean, std):
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, 16, 16)
    expected = tvf.normalize(values / 255.0, mean, std)
    assert (build_pipeline([], 16, 16, mean, std).per_batch(values) - expected).abs().max() <= 1e-6


def test_a_picture_alone_and_in_a_sample_give_the_same():
    names = ["random_flip", "random_crop", "color_jitter", "pad_crop"]
    pipeline = build_pipeline(names, 64, 32, MEAN, STD)
    for seed in range(10):
        results = []
        for run in (pipeline.per_image, lambda image: pipeline.per_image.sample({"img": image, "pid": 3})["img"]):
            torch.manual_seed(seed)
            random.seed(seed)
            results.append(run(picture()))
        assert torch.equal(*results) and type(results[1]) is torch.Tensor


@pytest.mark.parametrize("first", ["random_flip", "color_jitter"])
def test_pixels_of_the_right_size_are_taken_as_the_picture_is(first):
    """As a cache gives them: they are not changed, and may not be."""
    pipeline = build_pipeline([first, "random_crop", "pad_crop"], 64, 32, MEAN, STD, {"pad_crop": {"padding": 70}})
    image = picture(64, 32)
    pixels = np.asarray(image)
    assert not pixels.flags.writeable
    for seed in range(10):
        results = []
        for given in (image, pixels):
            torch.manual_seed(seed)
            random.seed(seed)
            results.append(pipeline.per_image(given))
        assert torch.equal(*results)


def test_pixels_stay_uint8_until_the_batch():
    pipeline = build_pipeline(["random_flip", "pad_crop"], 64, 32, MEAN, STD)
    assert pipeline.per_image(picture()).dtype == torch.uint8
    batch = torch.stack([pipeline.per_image(picture(seed=s)) for s in range(3)])
    expected = torch.stack([tvf.normalize(image / 255.0, MEAN, STD) for image in batch])
    assert torch.allclose(pipeline.per_batch(batch), expected, atol=1e-6)


def test_flip_mirrors_and_half_of_the_time():
    pipeline = build_pipeline(["random_flip"], 64, 32, MEAN, STD)
    plain = build_pipeline([], 64, 32, MEAN, STD).per_image(picture())
    mirrored = 0
    for _ in range(200):
        result = pipeline.per_image(picture())
        assert torch.equal(result, plain) or torch.equal(result, plain.flip(2))
        mirrored += torch.equal(result, plain.flip(2))
    assert 70 <= mirrored <= 130


def test_pad_crop_is_a_window_of_the_black_padded_image():
    pipeline = build_pipeline(["pad_crop"], 64, 32, MEAN, STD, {"pad_crop": {"padding": 10}})
    plain = build_pipeline([], 64, 32, MEAN, STD).per_image(picture())
    padded = torch.nn.functional.pad(plain, [10] * 4)
    places = set()
    for _ in range(60):
        result = pipeline.per_image(picture())
        hits = [
            (top, left)
            for top in range(21)
            for left in range(21)
            if torch.equal(padded[:, top : top + 64, left : left + 32], result)
        ]
        assert len(hits) == 1
        places.update(hits)
    assert len(places) > 40 and max(top for top, _ in places) > 15 and min(left for _, left in places) < 5


@pytest.mark.parametrize("seed", range(6))
def test_a_mask_follows_flip_and_crop_exactly(seed):
    """A mask made of the image's own red channel stays the image's red channel."""
    pipeline = build_pipeline(["random_flip", "pad_crop"], 64, 32, MEAN, STD, interpolation="nearest")
    image = picture(64, 32, seed)
    mask = tv_tensors.Mask(torch.from_numpy(np.asarray(image)[..., 0].copy())[None])
    torch.manual_seed(seed)
    moved = pipeline.per_image.sample({"img": image, "mask": mask})
    assert torch.equal(moved["mask"].as_subclass(torch.Tensor)[0], moved["img"][0])


def test_stock_composition_gives_normalised_tensors():
    train, test = compose_for_stock(["random_flip", "random_erase_pixel"], 64, 32)
    assert train(picture()).shape == test(picture()).shape == (3, 64, 32)
    assert train(picture()).dtype == torch.float32


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="no transform is called 'pad_corp' \\(did you mean 'pad_crop'\\?\\)"):
        build_pipeline(["pad_corp"], 64, 32, MEAN, STD)


@contextlib.contextmanager
def registered(name, value):
    TRANSFORMS.register_module(name, module=value)
    try:
        yield
    finally:
        del TRANSFORMS.module_dict[name]


def test_a_transform_without_a_level_is_refused():
    with registered("levelless", type("Levelless", (), {})), pytest.raises(ConfigError) as caught:
        build_pipeline(["levelless"], 64, 32, MEAN, STD)
    assert str(caught.value) == (
        "the transform 'levelless' has level None; its class must state one of ('pil', 'image', 'batch')"
    )


class Invert(v2.Transform):
    """255 - pixel, to test the "image" level."""

    level = "image"

    def transform(self, inpt, params):
        return inpt if isinstance(inpt, tv_tensors.Mask) else tv_tensors.wrap(255 - inpt, like=inpt)


def test_image_transforms_see_uint8_pixels_after_the_pil_ones():
    with registered("invert", Invert):
        pipeline = build_pipeline(["invert", "pad_crop"], 64, 32, MEAN, STD)
    torch.manual_seed(0)
    result = pipeline.per_image(picture())
    torch.manual_seed(0)
    assert torch.equal(255 - result, build_pipeline(["pad_crop"], 64, 32, MEAN, STD).per_image(picture()))


def test_colour_jitter_happens_with_its_probability():
    from occplug.transforms.stock import ColorJitter

    image = torch.randint(0, 256, (3, 8, 4), dtype=torch.uint8)
    changed = [not torch.equal(ColorJitter(prob=0.5)(image), image) for _ in range(200)]
    assert 60 < sum(changed) < 140
    assert all(torch.equal(ColorJitter(prob=0.0)(image), image) for _ in range(20))
    torch.manual_seed(5)
    first = ColorJitter()(image)
    torch.manual_seed(5)
    assert torch.equal(first, ColorJitter(prob=1.0)(image))


@pytest.mark.parametrize("size", [(16, 32), (32, 64), (32, 16), (64, 128), (8, 32)])
def test_enlarging_by_powers_of_two_is_pils_to_the_bit(size, monkeypatch):
    """Both kinds of resize then are torchvision's."""
    resize = Resize(64, 32)
    exact = size[0] in (8, 16, 32) and size[1] in (16, 32, 64)
    assert resize._takes_tensor(size) == exact
    assert not Resize(64, 32, "bicubic")._takes_tensor(size)
    draws = np.random.default_rng(0)
    for number in range(20):
        pixels = draws.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        pixels = pixels if number % 2 else (pixels > 127).astype(np.uint8) * 255
        expected = np.asarray(Image.fromarray(pixels).resize((32, 64), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(np.asarray(resize.transform(Image.fromarray(pixels), {})), expected)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_resize_of_tensors_is_near_pils_and_moves_masks_alike(interpolation):
    for seed in range(10):
        one, other = (
            Resize(64, 32, interpolation, kind).transform(picture(seed=seed), {}) for kind in ("pil", "tensor")
        )
        difference = np.abs(np.asarray(one).astype(int) - np.asarray(other))
        assert one.size == other.size and 0 < difference.max() <= 5 and difference.mean() < 0.5
    pipelines = [build_pipeline([], 64, 32, MEAN, STD, resize=kind) for kind in ("pil", "tensor")]
    mask = tv_tensors.Mask(torch.arange(90 * 47).view(1, 90, 47))
    moved = [pipeline.per_image.sample({"img": picture(), "mask": mask})["mask"] for pipeline in pipelines]
    assert torch.equal(*moved) and moved[0].shape == (1, 64, 32)
