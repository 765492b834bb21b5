"""RWOA measured on its results: cover, place, border, light, mask, draws."""

import logging
import math
import pickle

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torchvision import tv_tensors

from occplug.config import default_config
from occplug.errors import ConfigError
from occplug.occluders import read_categories, read_library
from occplug.transforms import RWOA, build_pipeline
from occplug.transforms.occlusion import Tally
from occplug.transforms.pasting import Layer, Light, _gaussian, feathered, shaped
from occplug.transforms.placing import pasted_size, pasted_sizes, position
from tests.data.test_manager import epochs, manager, market
from tests.occluders.libraries import disc, library, solid

HEIGHT, WIDTH = 256, 128
LUMA = np.array([0.299, 0.587, 0.114])


def image(seed=0, height=HEIGHT, width=WIDTH):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8))


def sampled(transform, picture, count=1):
    """`count` results as (image int [3, H, W], alpha int [H, W], category)."""
    for _ in range(count):
        result = transform({"img": picture})
        yield result["img"].numpy().astype(int), result["occlusion"][0].numpy().astype(int), result["occluder"]


# ---- what comes out


def test_probability_zero_is_the_identity():
    transform, picture = RWOA(prob=0), image()
    assert torch.equal(transform(picture), picture)
    result = transform({"img": picture, "pid": 7})
    assert torch.equal(result["img"], picture) and result["pid"] == 7
    assert result["occluder"] == -1 and result["occlusion"].shape == (1, HEIGHT, WIDTH)
    assert not result["occlusion"].any() and isinstance(result["occlusion"], tv_tensors.Mask)


def test_half_of_the_images_are_occluded_and_none_is_changed_in_place():
    transform, picture = RWOA(prob=0.5), image()
    before = picture.clone()
    changed = sum(not torch.equal(transform(picture), before) for _ in range(400))
    assert 150 <= changed <= 250 and torch.equal(picture, before)
    assert transform.tally["seen"] == 400 and transform.tally["occluded"] == changed


def test_an_image_alone_gives_the_image_of_the_sample():
    transform, picture = RWOA(prob=1), tv_tensors.Image(image())
    torch.manual_seed(3)
    alone = transform(picture)
    torch.manual_seed(3)
    assert torch.equal(alone, transform({"img": picture})["img"]) and isinstance(alone, tv_tensors.Image)
    assert alone.dtype == torch.uint8 and alone.shape == (3, HEIGHT, WIDTH)


@pytest.mark.parametrize("name", ["rwoa", "oia", "oamn"])
def test_in_place_gives_the_image_of_a_call(name):
    transform = build_pipeline([name], HEIGHT, WIDTH, [0.5] * 3, [0.5] * 3, {name: {"prob": 0.7}}).transforms[0]
    if name == "oamn":
        transform.bind([("strip",)], lambda path: Image.fromarray(image(9).permute(1, 2, 0).numpy()))
    for seed in range(20):
        own, other = image(seed), image(seed).transpose(1, 2).contiguous().transpose(1, 2)  # not contiguous
        torch.manual_seed(seed)
        expected = transform(image(seed))
        for given in (own, other):
            torch.manual_seed(seed)
            assert torch.equal(transform.in_place(given), expected)
        torch.manual_seed(seed)
        changed = transform.in_place(own.copy_(image(seed)))
        assert changed.data_ptr() == own.data_ptr() and torch.equal(own, expected), "no copy is made"


def test_counts_go_with_a_transform_to_another_process():
    tally = Tally("seen", "occluded")
    assert tally.add("seen") == 1 and tally.add("seen", "occluded") == 1 and tally["seen"] == 2
    copied = pickle.loads(pickle.dumps(tally))
    assert copied.add("seen") == 3 and copied["seen"] == 3 and copied["occluded"] == 1
    context = torch.multiprocessing.get_context("fork")
    process = context.Process(target=tally.add, args=("occluded",))
    process.start()
    process.join()
    assert tally["occluded"] == 2


@pytest.mark.parametrize("low, high", [(0.05, 0.6), (0.15, 0.22), (0.0, 0.1)])
def test_the_cover_lies_in_the_range(low, high):
    transform = RWOA(prob=1, min_cover=low, max_cover=high, attempts=100)
    covers = [alpha.mean() / 255 for _, alpha, _ in sampled(transform, image(), 150)]
    assert transform.tally["misfits"] == 0 and low <= min(covers) and max(covers) <= high
    assert max(covers) - min(covers) > 0.4 * (min(high, 0.4) - low), "the range is used"


def test_the_mask_is_where_pixels_changed(tmp_path):
    """A magenta occluder over an image without any: what has alpha changed, the rest did not."""
    folder = library(tmp_path / "l", bench=disc(colour=(255, 0, 255)), handbag=disc(colour=(255, 0, 255)))
    transform, picture = RWOA(prob=1, library=folder, align="none"), image() // 3
    picture[1] += 100
    for result, alpha, _ in sampled(transform, picture, 30):
        changed = (result != picture.numpy()).any(0)
        assert not changed[alpha == 0].any() and changed[alpha > 3].all() and alpha.max() == 255


def test_the_composite_is_the_weighted_mean(tmp_path):
    transform = RWOA(prob=1, library=library(tmp_path / "l", car=disc(colour=(10, 200, 90))), align="none")
    picture = image()
    for result, alpha, category in sampled(transform, picture, 10):
        share = alpha / 255
        expected = (1 - share) * picture.numpy() + share * np.array([10, 200, 90])[:, None, None]
        assert np.abs(result - expected).max() < 2 and category == read_categories()["car"].index


def test_an_opaque_rectangle_is_plain_pasting(tmp_path):
    colour = np.array([200, 40, 120])
    folder = library(tmp_path / "l", suitcase=solid(colour=tuple(colour)))
    transform, picture = RWOA(prob=1, library=folder, align="none", feather=0), image()
    for result, alpha, _ in sampled(transform, picture, 20):
        rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
        box = np.zeros_like(alpha)
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 255
        assert np.array_equal(alpha, box)
        assert np.array_equal(result, np.where(box > 0, colour[:, None, None], picture.numpy()))


@pytest.mark.parametrize("radius", [1, 1.5, 2.7, 3, 4.2, 6.9, 12])
def test_the_blur_of_bytes_is_opencvs_to_the_bit(radius):
    weights = _gaussian(radius / 2)
    for picture in (image(1)[0].numpy(), 255 * (image(2)[0].numpy() > 127).astype(np.uint8)):
        expected = cv2.GaussianBlur(picture, (0, 0), radius / 2, borderType=cv2.BORDER_CONSTANT)
        sums = cv2.sepFilter2D(picture, cv2.CV_32F, weights, weights, delta=0.5, borderType=cv2.BORDER_CONSTANT)
        assert np.array_equal(sums.astype(np.uint8), expected)


def test_no_white_fringe(tmp_path):
    """The transparent pixels of the file are white, the object is dark, the image black: nothing may be brighter."""
    folder = library(tmp_path / "l", backpack=disc(), car=disc(201))
    stored = np.asarray(Image.open(f"{folder}/car_000.png")).copy()
    stored[stored[..., 3] == 0, :3] = 255  # the writer clears them; a hand-made library does not
    Image.fromarray(stored).save(f"{folder}/car_000.png")
    for feather in (0, 0.03):
        transform = RWOA(prob=1, library=folder, align="none", feather=feather)
        black = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
        assert max(result.max() for result, _, _ in sampled(transform, black, 40)) <= 23


# ---- category, size, place


def test_categories_are_drawn_by_weight_and_cutouts_uniformly(tmp_path):
    shades = [solid(colour=(shade, 0, 0)) for shade in (50, 100, 150, 200)]
    folder = library(tmp_path / "l", bicycle=shades[:3], backpack=shades[3], kite=solid())
    transform = RWOA(prob=1, library=folder, align="none", feather=0, min_cover=0)
    shown = [int(result[0][alpha > 0].max()) for result, alpha, _ in sampled(transform, image() * 0, 1200)]
    counts = [shown.count(shade) for shade in (50, 100, 150, 200)]
    assert sum(counts) == 1200, "a kite has weight 0"
    expected = np.array([2 / 9, 2 / 9, 2 / 9, 1 / 3]) * 1200
    assert (((np.array(counts) - expected) ** 2) / expected).sum() < 16.3  # chi square, 3 degrees, p = .001


def test_half_of_the_cutouts_are_mirrored(tmp_path):
    halves = solid(60, 60, (255, 0, 0))
    halves[:, 30:, :3] = (0, 0, 255)
    folder = library(tmp_path / "l", suitcase=halves)
    transform = RWOA(prob=1, library=folder, align="none", feather=0, min_cover=0)
    left_red = 0
    for result, alpha, _ in sampled(transform, image() * 0, 300):
        middle = result[:, alpha.any(1).nonzero()[0][5]]
        reds = np.flatnonzero(middle[0] > 200)
        blues = np.flatnonzero(middle[2] > 200)
        left_red += len(blues) == 0 or (len(reds) > 0 and reds[0] < blues[0])
    assert 110 <= left_red <= 190


@pytest.mark.parametrize("aspect, alpha, cover", [(0.4, 0.6, 0.3), (1, 1, 0.1), (0.7, 0.5, 0.2), (2, 0.8, 0.15)])
def test_a_cutout_is_as_large_as_its_share_asks(aspect, alpha, cover):
    h, w = pasted_size(aspect, alpha, cover, HEIGHT, WIDTH)
    assert h * w * alpha == pytest.approx(cover * HEIGHT * WIDTH, rel=0.02) and w / h == pytest.approx(aspect, rel=0.03)


def test_size_limits_keep_the_aspect():
    h, w = pasted_size(0.1, 1, 0.5, HEIGHT, WIDTH)
    assert h == round(0.9 * HEIGHT) and w == round(0.09 * HEIGHT)
    h, w = pasted_size(4, 0.3, 0.5, HEIGHT, WIDTH)
    assert w == 1.5 * WIDTH and h == w / 4
    thin = pasted_size(1, 0.01, 0.02, HEIGHT, WIDTH)
    assert thin == pasted_size(1, 0.1, 0.02, HEIGHT, WIDTH), "mean alpha counts as at least 0.1"


def ranges(anchor, h, w):
    """Independent statement of the table: lowest and highest left, and top."""
    high, wide = HEIGHT - h, WIDTH
    return {
        "bottom": ((-0.3 * w, wide - 0.7 * w), (high, high + 0.1 * h)),
        "stand": ((-0.2 * w, wide - 0.8 * w), (high, high + 0.1 * h)),
        "top": ((-0.2 * w, wide - 0.8 * w), (-0.3 * h, 0)),
        "middle": ((-0.2 * w, wide - 0.8 * w), (0.3 * HEIGHT - h / 2, 0.65 * HEIGHT - h / 2)),
        "side": ((-0.35 * w, wide - 0.65 * w), (high, high + 0.15 * h)),
        "any": ((-w / 2, wide - w / 2), (-h / 2, HEIGHT - h / 2)),
    }[anchor]


@pytest.mark.parametrize("anchor", ["bottom", "stand", "top", "middle", "side", "any"])
def test_places_fill_their_range(anchor):
    draws = np.random.default_rng(0).random((3000, 3))
    for h, w in ((90, 50), (60, 150)):
        places = [position(anchor, (h, w), (HEIGHT, WIDTH), tuple(row)) for row in draws]
        tops, lefts = np.array([place for place in places if place is not None]).T
        (left, right), (top, bottom) = ranges(anchor, h, w)
        slack = 0.05 * max(right - left, bottom - top) if anchor == "any" else 3
        if anchor != "any" or w < WIDTH:
            assert left - 1 <= lefts.min() <= left + slack and right - slack <= lefts.max() <= right + 1
        assert top - 1 <= tops.min() <= top + slack and bottom - slack <= tops.max() <= bottom + 1
        if anchor == "side":
            from_right = WIDTH - w - lefts
            assert np.minimum(np.abs(lefts + 0.075 * w), np.abs(from_right + 0.075 * w)).max() < 0.3 * w + 0.2 * WIDTH
            assert 0.45 < (lefts < from_right).mean() < 0.55
        if anchor == "any":
            inside = (np.minimum(lefts + w, WIDTH) - lefts.clip(0)) * (np.minimum(tops + h, HEIGHT) - tops.clip(0))
            assert inside.min() >= h * w / 2


def test_things_stand_where_their_category_stands(tmp_path):
    """On the results: the lower ones reach the last row, an umbrella begins in the first, a bag hangs in the middle."""
    pieces = {"car": solid(50, 90), "post": solid(120, 20), "person": solid(120, 40), "umbrella": solid(50, 60)}
    folder = library(tmp_path / "l", **pieces, handbag=solid(40, 40))
    transform = RWOA(prob=1, library=folder, feather=0, min_cover=0)
    by_index = {category.index: category.anchor for category in transform.library.table.values()}
    seen = set()
    for _, alpha, category in sampled(transform, image(), 200):
        anchor, rows = by_index[category], np.flatnonzero(alpha.any(1))
        seen.add(anchor)
        if anchor in ("bottom", "stand", "side"):
            assert rows[-1] == HEIGHT - 1
        elif anchor == "top":
            assert rows[0] == 0 < HEIGHT / 2
        else:
            assert 0.3 * HEIGHT - 1 <= rows.mean() <= 0.65 * HEIGHT + 1
    assert seen == {"bottom", "stand", "side", "top", "middle"}


def test_without_anchors_a_car_may_float(tmp_path):
    transform = RWOA(prob=1, library=library(tmp_path / "l", car=solid(40, 60)), anchors=False, feather=0)
    last = [np.flatnonzero(alpha.any(1))[-1] for _, alpha, _ in sampled(transform, image(), 100)]
    assert min(last) < 0.7 * HEIGHT and any(row == HEIGHT - 1 for row in last)


# ---- border


def test_feathering_is_the_formula():
    alpha = np.zeros((140, 100), np.uint8)
    alpha[10:130, 8:92] = 255
    radius = max(1, 0.06 * 100)
    core = ndimage.binary_erosion(alpha > 127, np.ones((2 * math.ceil(radius / 2) + 1,) * 2))
    soft = ndimage.gaussian_filter(core * 255.0, radius / 2, mode="constant", truncate=4)
    assert np.abs(feathered(alpha, 0.06) - np.minimum(alpha, soft)).max() < 3
    assert feathered(alpha, 0) is alpha


def test_no_hard_edge(tmp_path):
    """Inside the image alpha never jumps; without feathering it does."""
    steps = {}
    for feather in (0, 0.03):
        transform = RWOA(prob=1, library=library(tmp_path / f"l{feather}", handbag=solid(90, 90)), feather=feather)
        _, alpha, _ = next(sampled(transform, image()))
        steps[feather] = max(np.abs(np.diff(alpha, axis=axis)).max() for axis in (0, 1))
    assert steps[0] == 255 and steps[0.03] < 0.55 * 255


def test_spokes_are_not_feathered_away():
    wheel = np.zeros((60, 100), np.uint8)
    wheel[28:31] = 255
    wheel[:, 50:52] = 255
    soft = feathered(wheel, 0.03)
    assert soft[29, 20] > 200 and soft[10, 50] > 150 and (soft <= wheel).all()


def test_shrinking_averages_premultiplied_colours():
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:, :4] = (100, 60, 20, 255)  # premultiplied; the rest is transparent
    small = shaped(rgba, 2, 3, feather=0)
    assert abs(int(small[3, 0, 1]) - 128) <= 1 and abs(int(small[0, 0, 1]) - 50) <= 1 and small[:, 0, 2].max() == 0
    assert np.array_equal(small[4], small[3])
    assert np.array_equal(shaped(rgba, 2, 3, feather=None)[4], np.where(small[3] > 127, 255, 0))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("corner", [(2, 3), (-4, 3), (2, -5), (17, 25), (-4, 25), (-9, 2), (30, 3), (2, 30), (2, -7)])
def test_a_layer_is_what_lies_inside_the_image(corner, mirrored):
    shape = np.random.default_rng(0).integers(0, 256, (5, 9, 7), dtype=np.uint8)
    whole = np.zeros((5, 80, 80), np.uint8)  # the image, [24, 30], with much around it
    whole[:, 20 + corner[0] :, 20 + corner[1] :][:, :9, :7] = shape[:, :, ::-1] if mirrored else shape
    layer = Layer(shape, mirrored, corner, (24, 30), 3)
    found = np.zeros((5, 24, 30), np.uint8)
    found[(slice(None), *layer.area)] = layer.planes
    np.testing.assert_array_equal(found, whole[:, 20:44, 20:50])
    assert layer.hidden == pytest.approx(found[4].sum() / 255) and layer.box == (*corner, corner[0] + 9, corner[1] + 7)


# ---- light


def layer_of(rng, alpha, top=60, left=30, low=40, high=100):
    colours = rng.uniform(low, high, (3, *alpha.shape)).astype(np.float32) * (alpha / np.float32(255))
    shape = np.stack([*np.zeros((4, *alpha.shape), np.uint8), alpha])
    layer = Layer(shape, False, (top, left), (top + alpha.shape[0], left + alpha.shape[1]), 0)
    layer.colours = colours
    return layer


def moments(values, weights):
    mean = sum(v * w for v, w in zip(values, weights)) / sum(weights)
    return mean, math.sqrt(sum(w * (v - mean) ** 2 for v, w in zip(values, weights)) / sum(weights))


def around_by_loops(layer, pixels):
    """Luminances of the box grown by 10 % a side, less what is covered, pixel by pixel."""
    top, left, bottom, right = layer.box
    h, w = bottom - top, right - left
    values = []
    for y in range(max(0, round(top - 0.1 * h)), min(pixels.shape[1], round(bottom + 0.1 * h))):
        for x in range(max(0, round(left - 0.1 * w)), min(pixels.shape[2], round(right + 0.1 * w))):
            inside = 0 <= y - top < layer.alpha.shape[0] and 0 <= x - left < layer.alpha.shape[1]
            if not inside or layer.alpha[y - top, x - left] / 255 < 0.05:
                values.append(float(LUMA @ pixels[:, y, x]))
    return values


@pytest.mark.parametrize(
    "beta, gamma, floor", [(0.5, 0.5, 0.6), (1, 1, 0.1), (0.3, 0, 0.6), (0, 0.7, 0.2), (0.5, 1, 0.9)]
)
def test_alignment_moves_mean_and_contrast_as_the_formula_says(beta, gamma, floor):
    rng = np.random.default_rng(1)
    alpha = rng.integers(0, 256, (50, 40)).astype(np.uint8)
    alpha[:4] = 5  # not counted as covered
    pixels = rng.integers(120, 160, (3, 128, 100), dtype=np.uint8)
    layer = layer_of(rng, alpha)
    weights = (alpha / 255).ravel()
    shades = layer.colours / np.maximum(alpha / 255, 1e-9)
    mean, spread = moments((LUMA @ shades.reshape(3, -1)), weights)
    around_mean, around_spread = moments(around := around_by_loops(layer, pixels), [1] * len(around))
    Light("luma", beta, gamma, floor).align(layer, pixels)
    new = LUMA @ (layer.colours / np.maximum(alpha / 255, 1e-9)).reshape(3, -1)
    new_mean, new_spread = moments(new, weights)
    factor = min(max((around_spread / spread) ** gamma, floor), 1)
    assert factor < 1 or gamma == 0
    assert new_mean == pytest.approx(mean + beta * (around_mean - mean), abs=0.05)
    assert new_spread == pytest.approx(factor * spread, rel=2e-3)


def test_contrast_is_never_raised():
    rng = np.random.default_rng(2)
    layer = layer_of(rng, np.full((40, 40), 255, np.uint8), low=95, high=105)
    pixels = rng.integers(0, 256, (3, 128, 100), dtype=np.uint8)
    before = layer.colours.copy()
    Light("luma", 0, 1, 0.6).align(layer, pixels)
    assert np.allclose(layer.colours, before, atol=1e-3)


def test_adain_aligns_every_colour_by_itself():
    rng = np.random.default_rng(3)
    layer = layer_of(rng, np.full((40, 40), 255, np.uint8))
    pixels = rng.integers(0, 5, (3, 128, 100), dtype=np.uint8) + np.array([60, 120, 180], np.uint8)[:, None, None]
    before = layer.colours.mean((1, 2))
    Light("adain", 0.5, 0, 1).align(layer, pixels)
    assert layer.colours.mean((1, 2)) == pytest.approx((before + [62, 122, 182]) / 2, abs=0.3)


def test_one_shift_for_all_colours_in_luma_mode():
    rng = np.random.default_rng(4)
    layer = layer_of(rng, np.full((40, 40), 255, np.uint8))
    before = layer.colours.copy()
    Light("luma", 0.5, 0, 1).align(layer, np.full((3, 128, 100), 150, np.uint8))
    shift = layer.colours - before
    assert shift.max() - shift.min() < 1e-3 and shift.mean() == pytest.approx(
        0.5 * (150 - (LUMA @ before.mean((1, 2)))), abs=0.01
    )


def test_an_occluder_that_hides_all_or_nothing_is_left_as_it_is():
    pixels = np.zeros((3, 40, 30), np.uint8)
    for alpha in (np.full((40, 30), 255, np.uint8), np.zeros((40, 30), np.uint8)):
        layer = layer_of(np.random.default_rng(0), alpha, 0, 0)
        before = layer.colours.copy()
        Light("luma", 1, 1, 0.1).align(layer, pixels)
        assert np.array_equal(layer.colours, before)


def test_colours_stay_in_range():
    layer = layer_of(np.random.default_rng(0), np.full((40, 40), 255, np.uint8), low=0, high=255)
    Light("luma", 1, 0, 1).align(layer, np.full((3, 128, 100), 250, np.uint8))
    assert layer.colours.min() >= 0 and layer.colours.max() <= 255


# ---- sizes made ahead


@pytest.mark.parametrize("size", [(256, 128), (64, 32)])
def test_all_sizes_that_can_be_drawn_are_known(size):
    for cutout in read_library().cutouts[::9]:
        low, high = cutout.category.cover
        covers = np.linspace(low, high, 4001)
        drawn = {pasted_size(cutout.aspect, cutout.alpha_mean, cover, *size) for cover in covers}
        known = pasted_sizes(cutout.aspect, cutout.alpha_mean, (low, high), *size)
        assert drawn <= set(known) and len(known) < len(drawn) * 1.1 + 3


def test_results_are_the_same_with_sizes_made_ahead(tmp_path, monkeypatch):
    folder = library(tmp_path / "l", car=disc(90), handbag=solid(50, 30), post=solid(140, 20))

    def results(**options):
        torch.manual_seed(0)
        transform = RWOA(prob=1, library=folder, **options)
        return transform.library, [np.stack([*pixels, alpha]) for pixels, alpha, _ in sampled(transform, image(), 40)]

    cutouts, expected = results()
    assert not cutouts.kept
    RWOA(library=folder).prepare(HEIGHT, WIDTH)
    made = len(cutouts.kept)
    monkeypatch.setattr("occplug.transforms.shapes.shaped", None)  # every size is there
    np.testing.assert_array_equal(results()[1], expected)
    monkeypatch.undo()
    assert any((one != other).any() for one, other in zip(results(feather=0.2)[1], expected))
    RWOA(library=folder, feather=0.2).prepare(HEIGHT, WIDTH)
    assert len(cutouts.kept) == 2 * made  # of each border its own


def test_sizes_are_made_ahead_for_many_images_as_far_as_memory_goes(tmp_path, monkeypatch, caplog):
    def pipeline(images, **options):
        result = build_pipeline(["oia", "rwoa"], HEIGHT, WIDTH, [0.5] * 3, [0.5] * 3, options)
        result.bind([("x.jpg",)] * images, None)
        return [transform.library for transform in result.transforms]

    folder = library(tmp_path / "l", car=disc(90), handbag=solid(50, 30))
    options = {name: {"library": folder} for name in ("oia", "rwoa")}
    (cutouts, _) = pipeline(999, **options)
    assert not cutouts.kept
    monkeypatch.setattr("occplug.transforms.shapes.room_ahead", lambda: 200_000)
    with caplog.at_level(logging.INFO, "occplug"):
        pipeline(1000, **options)
    sizes = sum(shape.nbytes for shape in cutouts.kept.values())
    assert 200_000 < sizes < 500_000 and {key[1] for key in cutouts.kept} == {None, 0.03}
    assert "occluders: 2 of 2 sizes made ahead" in caplog.text
    known = set(cutouts.kept)
    pipeline(1000, **options)
    assert set(cutouts.kept) == known  # there is no room for more


# ---- draws, workers, misfits


def test_the_same_seed_gives_the_same_picture():
    transform, picture = RWOA(prob=1), image()

    def result(seed):
        torch.manual_seed(seed)
        return transform(picture)

    assert torch.equal(result(5), result(5)) and not torch.equal(result(5), result(6))


def test_any_number_of_workers_gives_the_same_occlusions(tmp_path):
    market(tmp_path)
    names = ["random_flip", "pad_crop", "rwoa", "oia", "oamn"]
    batches = [
        sum(epochs(manager(tmp_path, "data.transforms", names, "data.workers", workers)), []) for workers in (0, 2)
    ]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one["img"], other["img"])


def test_misfits_of_all_workers_are_counted_and_leave_the_image(tmp_path, caplog):
    market(tmp_path)
    options = ["data.transforms", ["rwoa"], "augment.rwoa.prob", 1.0]
    options += ["augment.rwoa.min_cover", 0.98, "augment.rwoa.max_cover", 0.99]
    data = manager(tmp_path, *options, "data.workers", 2)
    plain = manager(tmp_path, "data.transforms", [])
    assert data.transform_tr.summaries() == []  # a mere test has nothing to tell
    data.set_epoch(0)
    plain.set_epoch(0)
    results, originals = list(data.train_loader), list(plain.train_loader)
    for result, original in zip(results, originals, strict=True):
        assert torch.equal(result["img"], original["img"])
    (transform,) = data.transform_tr.per_image.image
    seen = sum(len(batch["pid"]) for batch in results)
    with caplog.at_level(logging.INFO, "occplug"):
        data.close()
    assert (
        f"rwoa: 0 of {transform.tally['seen']} images occluded, no occluder fitted into {transform.tally['seen']}"
        in (caplog.text)
    )
    assert transform.tally["misfits"] == transform.tally["seen"] >= seen and transform.tally["occluded"] == 0
    caplog.clear()
    with caplog.at_level(logging.WARNING, "occplug"):
        for _ in range(9):
            RWOA.forward(transform, image(height=32, width=16))
    assert "rwoa: no occluder fitted; the image stays as it is (1 so far in this process)" in caplog.text
    assert len(caplog.records) == 1


def test_the_try_nearest_to_the_range_is_a_switch():
    transform = RWOA(prob=1, min_cover=0.9, max_cover=0.95, misfit="nearest")
    covers = [alpha.mean() / 255 for _, alpha, _ in sampled(transform, image(), 20)]
    assert min(covers) > 0.1 and transform.tally["misfits"] == 20


def test_a_spawned_process_reads_the_library_again(tmp_path):
    folder = library(tmp_path / "l", car=solid())
    assert pickle.loads(pickle.dumps(read_library(folder))) is read_library(folder)


def test_it_acts_after_flip_and_crop_and_moves_with_them():
    """Of level "image": whatever the order of the names, pad_crop comes first, so what stands on the ground stays."""
    pipeline = build_pipeline(["rwoa", "pad_crop"], HEIGHT, WIDTH, [0.5] * 3, [0.5] * 3, {"rwoa": {"prob": 1.0}})
    assert [type(t).__name__ for t in pipeline.per_image.pil] == ["PadCrop"]
    sample = pipeline.per_image.sample({"img": Image.new("RGB", (50, 100)), "name": "x"})
    assert sample["occlusion"].shape == (1, HEIGHT, WIDTH) and sample["occluder"] >= 0 and sample["name"] == "x"


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"min_cover": 0.6, "max_cover": 0.05},
            "augment.rwoa: the cover range is impossible: min_cover is 0.6 and max_",
        ),
        ({"max_cover": 1.5}, "must be 0 <= min_cover < max_cover <= 1"),
        ({"align": "lab"}, "augment.rwoa.align is 'lab'; there are: luma, adain, none"),
        ({"misfit": "cry"}, "augment.rwoa.misfit is 'cry'; there are: leave, nearest"),
        ({"prob": 2}, "augment.rwoa.prob is 2; it must be from 0 to 1"),
        ({"min_contrast": -1}, "augment.rwoa.min_contrast is -1; it must be from 0 to 1"),
        ({"area_scale": 0}, "area_scale is 0 and attempts 10; both must be above 0"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ConfigError) as caught:
        RWOA(**options)
    assert message in str(caught.value)


def test_a_library_of_categories_without_weight(tmp_path):
    with pytest.raises(ConfigError, match="no category in .* has a weight above 0"):
        RWOA(library=library(tmp_path / "l", kite=solid()))


def test_the_result_has_the_type_of_the_image():
    for picture in (image(), tv_tensors.Image(image())):
        assert type(RWOA(prob=1)(picture)) is type(RWOA(prob=0)(picture)) is type(picture)


def test_a_float_image_is_refused():
    with pytest.raises(ConfigError, match="rwoa needs images of uint8 \\[3, H, W\\]; it got torch.float32"):
        RWOA()(torch.zeros(3, 8, 8))


def test_every_switch_is_a_config_key():
    cfg = default_config("clip_reid", "clip_vit_tiny", ["augment.rwoa.align", "adain", "augment.rwoa.anchors", False])
    assert cfg.augment.rwoa.align == "adain" and not cfg.augment.rwoa.anchors and cfg.augment.oia.area == "class"
    RWOA(**cfg.augment.rwoa)
