"""Compiled loops of pasting: the pixels of the operations one by one, as they are taken without numba."""

import cv2
import numpy as np
import pytest
import torch

from occplug.transforms import OIA, RWOA, laying, pasting
from occplug.transforms.pasting import Layer, Light, feathered, lay
from occplug.utils import compiled

LOOPS = laying._ALL


@pytest.fixture
def one_by_one(monkeypatch):
    """Call it to do without compiled loops from there on."""

    def switch():
        for each in LOOPS:
            monkeypatch.setattr(each, "_compiled", None)

    return switch


@pytest.fixture(params=["compiled", "plain"])
def loops(request, monkeypatch):
    """How many pictures a test can do with loops compiled, and as Python runs them."""
    if request.param == "compiled":
        pytest.importorskip("numba")
        compiled.start(compiled.WORTH)
        assert all(each.ready for each in LOOPS)
        return 150
    for each in LOOPS:
        monkeypatch.setattr(each, "_compiled", each.plain)
    return 2


def picture(seed, height=256, width=128):
    """Smooth colours with noise, so that a light and a contrast are there to be matched."""
    draws = np.random.default_rng(seed)
    coarse = draws.integers(0, 256, (6, 4, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    return np.clip(smooth + draws.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8).transpose(2, 0, 1)


def results(transform, count, size):
    """Of `count` pictures: image, alpha and category."""
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        sample = transform({"img": torch.from_numpy(picture(seed, *size).copy())})
        found.append((sample["img"].numpy(), sample["occlusion"].numpy(), sample["occluder"]))
    return found


def the_same(transform, count, size, one_by_one):
    compiled_ones = results(transform, count, size)
    one_by_one()
    for found, expected in zip(compiled_ones, results(transform, count, size), strict=True):
        assert found[2] == expected[2]
        np.testing.assert_array_equal(found[1], expected[1])
        np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize("options", [{}, {"align": "none", "feather": 0}, {"feather": 0.2, "anchors": False}])
def test_rwoa_is_the_same(options, loops, one_by_one):
    size = (256, 128) if loops > 2 else (32, 16)
    the_same(RWOA(prob=1, **options), loops, size, one_by_one)


def test_oia_is_the_same(loops, one_by_one):
    the_same(OIA(prob=1), loops, (256, 128) if loops > 2 else (32, 16), one_by_one)


@pytest.mark.parametrize("feather", [0.01, 0.03, 0.1, 0.3])
def test_borders_are_the_same(feather, loops, one_by_one):
    draws, alphas = np.random.default_rng(0), []
    for number in range(loops):
        height, width = draws.integers(1, 200 if loops > 2 else 20, 2)
        blobs = draws.integers(0, 256, (max(1, height // 9), max(1, width // 9)), dtype=np.uint8)
        alphas.append(cv2.resize(blobs, (int(width), int(height)), interpolation=number % 2))
    found = [feathered(alpha, feather) for alpha in alphas]
    one_by_one()
    for alpha, border in zip(alphas, found):
        np.testing.assert_array_equal(border, feathered(alpha, feather))


def layer(alpha, top, left, image=(40, 30)):
    shape = np.random.default_rng(0).integers(0, 256, (5, *alpha.shape), dtype=np.uint8)
    shape[3], shape[4] = np.maximum(alpha, 1), alpha
    shape[:3] = shape[:3] * (shape[3] / 255)
    return Layer(shape, False, (top, left), image, 0)


@pytest.mark.parametrize("case", ["hides all", "nothing", "nearly all", "a part outside", "dark place"])
def test_corner_cases_are_the_same(case, loops, one_by_one):
    pixels, full = picture(1, 40, 30), np.full((40, 30), 255, np.uint8)
    nearly = full.copy()
    nearly[5, 5:9] = 3
    part = layer(np.full((50, 40), 255, np.uint8), -30, 20)
    assert part.box == (-30, 20, 20, 60) and part.area == (slice(0, 20), slice(20, 30))
    layers = {
        "hides all": layer(full, 0, 0), "nothing": layer(full * 0, 0, 0), "nearly all": layer(nearly, 0, 0),
        "a part outside": part, "dark place": layer(full[:20, :10], 3, 4),
    }  # fmt: skip
    pixels = pixels // 30 if case == "dark place" else pixels
    light = Light("luma", 0.5, 0.5, 0.6)
    found, expected = pixels.copy(), pixels.copy()
    lay(layers[case], found, light)
    one_by_one()
    lay(layers[case], expected, light)
    np.testing.assert_array_equal(found, expected)
    hidden = np.zeros((40, 30), np.uint8)
    hidden[layers[case].area] = layers[case].alpha
    np.testing.assert_array_equal(layers[case].hides(), hidden)


def test_a_byte_is_divided_by_255_to_the_bit():
    values = np.arange(256, dtype=np.float32)
    products = values * laying.MOST_OF_255TH + values * laying.REST_OF_255TH
    np.testing.assert_array_equal(products, values / np.float32(255))


def align_in_float32(self, layer, pixels):
    """`Light.align` as it was first written, with sums of float32."""
    alpha = layer.alpha.astype(np.float32) / 255
    total = float(alpha.sum())
    around = pasting._moments(layer, pixels, per_colour=self.mode == "adain")
    if total == 0 or around is None:
        return
    planes = layer.colours if self.mode == "adain" else pasting._luminance(layer.colours)[None]
    mean = planes.sum((1, 2)) / total
    square = (planes * planes / np.maximum(alpha, 1e-3)).sum((1, 2)) / total
    spread = np.sqrt(np.maximum(square - mean**2, 1e-6))
    factor = np.clip((around[1] / spread) ** self.contrast, self.min_contrast, 1)
    shift = mean * (1 - factor) + self.brightness * (around[0] - mean)
    layer.colours *= factor.astype(np.float32)[:, None, None]
    layer.colours += shift.astype(np.float32)[:, None, None] * alpha
    np.maximum(layer.colours, 0, out=layer.colours)
    np.minimum(layer.colours, 255 * alpha, out=layer.colours)


@pytest.mark.parametrize("mode", ["luma", "adain"])
def test_sums_of_float64_move_few_pixels_and_none_by_more_than_a_level(mode, monkeypatch, one_by_one):
    one_by_one()
    transform = RWOA(prob=1, align=mode)
    found = results(transform, 60, (256, 128))
    monkeypatch.setattr(Light, "align", align_in_float32)
    expected = results(transform, 60, (256, 128))
    differences = np.stack([np.abs(one[0].astype(int) - other[0]) for one, other in zip(found, expected)])
    assert differences.max() <= 1 and differences.mean() < 1e-4
