"""Random erasing: what is filled, with what, how often and how large."""

import math
import random

import pytest
import torch

from occplug.errors import ConfigError
from occplug.transforms import RandomErasePixel

H, W = 64, 32


def boxes(count=3000, **options):
    erase = RandomErasePixel(**options)
    torch.manual_seed(0)
    found = []
    for box in erase.make_params([torch.empty(count, 3, H, W)])["boxes"]:
        found.append(box)
    return found


def test_only_the_box_changes_and_it_becomes_unit_noise():
    erase, images = RandomErasePixel(prob=1.0), torch.full((400, 3, H, W), 9.0)
    result = erase(images)
    assert torch.equal(images, torch.full_like(images, 9.0)), "the input stays as it was"
    changed = result != 9.0
    values = result[changed]
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02
    for image in changed[:40]:
        rows, columns = image[0].nonzero().T
        box = image[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert box.all() and image.sum() == box.numel()


def test_probability_and_identity_at_zero():
    assert 0.46 < len(boxes(prob=0.5)) / 3000 < 0.54
    images = torch.randn(5, 3, H, W)
    assert torch.equal(RandomErasePixel(prob=0.0)(images), images)


def test_area_is_uniform_and_aspect_log_uniform():
    """At a size where every rectangle of the range fits, the accepted ones follow the drawn distributions."""
    areas, aspects = [], []
    for _, _, _, h, w in boxes(prob=1.0, max_area=0.1, min_aspect=0.6):
        areas.append(h * w / (H * W))
        aspects.append(math.log(h / w))
    areas, aspects = torch.tensor(areas), torch.tensor(aspects)
    assert areas.mean().item() == pytest.approx(0.06, abs=0.002)
    assert areas.std().item() == pytest.approx(0.08 / 12**0.5, abs=0.002)
    assert aspects.mean().item() == pytest.approx(0.0, abs=0.02)
    assert aspects.std().item() == pytest.approx(2 * math.log(1 / 0.6) / 12**0.5, rel=0.05)


def reference_box(height, width, draw):
    """The specification as it reads, one scalar draw after the other; None if ten rectangles do not fit."""
    for _ in range(10):
        area = height * width * draw.uniform(0.02, 1 / 3)
        aspect = math.exp(draw.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            return draw.randint(0, height - h), draw.randint(0, width - w), h, w
    return None


@pytest.mark.parametrize(("height", "width"), [(256, 128), (16, 48)])
def test_default_boxes_are_distributed_as_the_specification_says(height, width):
    """Means, deviations and quantiles of top, left, height and width against 20,000 scalar draws."""
    draw = random.Random(0)
    wanted = [box for _ in range(20000) if (box := reference_box(height, width, draw)) is not None]
    torch.manual_seed(1)
    found = RandomErasePixel(prob=1.0).make_params([torch.empty(20000, 3, height, width)])["boxes"]
    assert abs(len(found) - len(wanted)) <= 200
    found, wanted = torch.tensor(found).float()[:, 1:], torch.tensor(wanted).float()
    assert ((found.mean(0) - wanted.mean(0)).abs() <= 4 * wanted.std(0) * (2 / 20000) ** 0.5).all()  # 4 standard errors
    assert torch.allclose(found.std(0), wanted.std(0), rtol=0.03)
    levels = torch.linspace(0.05, 0.95, 19)
    gap = (found.quantile(levels, dim=0) - wanted.quantile(levels, dim=0)).abs().amax(0)
    assert (gap <= 0.03 * (wanted.amax(0) - wanted.amin(0)) + 1).all()


def test_leading_axes_and_single_images_are_the_same_to_it():
    erase, images = RandomErasePixel(prob=1.0), torch.zeros(2, 3, 3, H, W)
    torch.manual_seed(0)
    nested = erase(images)
    torch.manual_seed(0)
    assert torch.equal(nested.view(6, 3, H, W), erase(images.view(6, 3, H, W)))
    assert erase(torch.zeros(3, H, W)).shape == (3, H, W)


def test_in_place_fills_what_it_was_given():
    images = torch.zeros(4, 3, H, W)
    assert RandomErasePixel(prob=1.0, inplace=True)(images) is images and (images != 0).any()


def test_boxes_lie_inside_and_are_smaller_than_the_image():
    for _, top, left, h, w in boxes(prob=1.0):
        assert 0 < h < H and 0 < w < W and 0 <= top <= H - h and 0 <= left <= W - w


def test_each_image_of_a_batch_draws_on_its_own():
    assert len({box[1:] for box in boxes(50, prob=1.0)}) > 45


def test_impossible_areas_are_refused():
    with pytest.raises(ConfigError, match="they must be 0 < min_area <= max_area < 1 and 0 < min_aspect <= 1"):
        RandomErasePixel(min_area=0.5, max_area=0.2)
