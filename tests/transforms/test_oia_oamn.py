"""The compared augmentations: OIA's hard-edged cut-outs in their corners, OAMN's strips of other images."""

from itertools import permutations
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import adjust_brightness, adjust_contrast, adjust_saturation

from occplug.errors import ConfigError
from occplug.occluders import read_categories
from occplug.transforms import OAMN, OIA, build_pipeline, jitter, resampling
from occplug.utils import compiled
from tests.occluders.libraries import disc, library, solid

HEIGHT, WIDTH = 256, 128


def black():
    return torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)


def results(transform, count):
    for _ in range(count):
        sample = transform({"img": black()})
        yield sample["img"].numpy(), sample["occlusion"][0].numpy(), sample["occluder"]


def box_of(alpha):
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1


# ---- OIA


@pytest.mark.parametrize(
    "category, share, corner",
    [
        ("bench", 0.40, "bottom-left"), ("bicycle", 0.60, "bottom-left"), ("car", 0.45, "bottom-left"),
        ("carton", 0.20, "bottom-left"), ("chair", 0.65, "bottom-left"), ("fire_hydrant", 0.20, "bottom-right"),
        ("motorcycle", 0.50, "bottom-left"), ("person", 0.50, "bottom-right"), ("post", 0.50, "bottom-left"),
        ("stop_sign", 0.40, "bottom-right"), ("stone", 0.15, "bottom-left"), ("handbag", 0.20, "left above half"),
        ("backpack", 0.20, "left above half"), ("kite", 0.40, "top-left"), ("suitcase", 0.10, "right above half"),
        ("umbrella", 0.25, "top-left"),
    ],
)  # fmt: skip
def test_every_class_has_its_share_and_corner(tmp_path, category, share, corner):
    """A cut-out with the image's aspect, so that none is clipped but by the corner of half height."""
    transform = OIA(prob=1, library=library(tmp_path / "l", **{category: solid(80, 40)}))
    ((pixels, alpha, index),) = results(transform, 1)
    top, left, bottom, right = box_of(alpha)
    assert index == read_categories()[category.replace("_", " ")].index
    h, w = bottom - top, right - left
    if (HEIGHT / 2) ** 2 * 0.5 > share * HEIGHT * WIDTH:  # fits above half height
        assert h * w == pytest.approx(share * HEIGHT * WIDTH, rel=0.02)
    if corner.endswith("above half"):
        assert bottom == HEIGHT / 2 and (left == 0 if corner.startswith("left") else right == WIDTH)
    else:
        assert (bottom == HEIGHT if "bottom" in corner else top == 0) and (
            left == 0 if "left" in corner else right == WIDTH
        )
        assert h * w == pytest.approx(share * HEIGHT * WIDTH, rel=0.02)
    assert np.array_equal(pixels, np.where(alpha > 0, np.array([200, 40, 120])[:, None, None], 0))


def test_the_edge_is_hard_and_the_colour_its_own(tmp_path):
    transform = OIA(prob=1, library=library(tmp_path / "l", umbrella=disc(colour=(90, 160, 30))))
    ((pixels, alpha, _),) = results(transform, 1)
    assert set(np.unique(alpha)) == {0, 255}
    assert np.abs(pixels[:, alpha > 0].astype(int) - np.array([[90], [160], [30]])).max() <= 1
    assert not pixels[:, alpha == 0].any()


def test_classes_are_drawn_uniformly_whatever_their_number_of_cutouts(tmp_path):
    many = [solid(60, 30, (0, 0, shade)) for shade in (60, 80, 100)]
    folder = library(tmp_path / "l", person=many, car=solid(30, 60), bush=solid())
    drawn = [index for _, _, index in results(OIA(prob=1, library=folder), 400)]
    table = read_categories()
    assert set(drawn) == {table["person"].index, table["car"].index}, "a bush is no class of OIA"
    assert 160 <= drawn.count(table["car"].index) <= 240


def test_results_are_the_same_with_sizes_made_ahead(tmp_path, monkeypatch):
    transform = OIA(prob=1, library=library(tmp_path / "l", car=disc(90), bench=solid(50, 30), kite=solid(140, 20)))

    def pictures():
        torch.manual_seed(0)
        return [np.stack([*pixels, alpha]) for pixels, alpha, _ in results(transform, 20)]

    expected = pictures()
    transform.prepare(HEIGHT, WIDTH)
    monkeypatch.setattr("occplug.transforms.shapes.shaped", None)  # every size is there
    np.testing.assert_array_equal(pictures(), expected)


def test_uniform_area(tmp_path):
    transform = OIA(prob=1, library=library(tmp_path / "l", person=solid(40, 20)), area="uniform")
    boxes = np.array([box_of(alpha) for _, alpha, _ in results(transform, 300)])
    shares = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (HEIGHT * WIDTH)
    assert 0.09 < shares.min() < 0.12 and 0.58 < shares.max() < 0.61 and abs(shares.mean() - 0.35) < 0.04
    assert boxes[:, 1].min() == 0 and boxes[:, 3].max() == WIDTH and 0.1 < (boxes[:, 3] == WIDTH).mean() + 0.1 < 0.4
    assert (boxes[:, 2] == HEIGHT).all()


def test_oia_mistakes(tmp_path):
    with pytest.raises(ConfigError, match="augment.oia.area is 'big'; there are: class, uniform"):
        OIA(area="big")
    with pytest.raises(ConfigError, match="no category in .* is a class of OIA"):
        OIA(library=library(tmp_path / "l", bush=solid()))


# ---- OAMN

SHADES = (60, 120, 180)


def strips(count, jitter=0.0, prob=1.0):
    transform = OAMN(prob=prob, jitter=jitter)
    transform.bind([(shade, 0, 0) for shade in SHADES], lambda shade: Image.new("RGB", (50, 110), (shade,) * 3))
    return results(transform, count)


def test_strips_are_at_a_border_and_as_wide_as_said():
    upright, sizes, places = 0, {True: [], False: []}, set()
    for pixels, alpha, category in strips(400):
        top, left, bottom, right = box_of(alpha)
        stands = bottom - top == HEIGHT
        upright += stands
        assert stands or right - left == WIDTH
        sizes[stands].append(right - left if stands else bottom - top)
        places.add((stands, left == 0 if stands else top == 0))
        assert (right == WIDTH or left == 0) if stands else (bottom == HEIGHT or top == 0)
        assert (
            category == -1
            and (alpha[top:bottom, left:right] == 255).all()
            and alpha.sum() // 255 == (bottom - top) * (right - left)
        )
        assert not pixels[:, alpha == 0].any() and pixels[0][alpha > 0].min() == pixels[0].max() in SHADES
    assert 160 <= upright <= 240 and len(places) == 4
    for stands, whole in ((True, WIDTH), (False, HEIGHT)):
        assert whole / 4 <= min(sizes[stands]) < 0.28 * whole and 0.47 * whole < max(sizes[stands]) <= whole / 2


def test_all_images_give_strips():
    seen = {int(pixels.max()) for pixels, _, _ in strips(60)}
    assert seen == set(SHADES)


def test_a_strip_is_a_window_of_the_resized_picture_or_its_mirror():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    source = np.stack([y, 2 * x, (y + x) // 2], -1).astype(np.uint8)
    transform = OAMN(prob=1, jitter=0)
    transform.bind([("a",)], lambda path: Image.fromarray(source))
    mirrored = 0
    for pixels, alpha, _ in results(transform, 60):
        top, left, bottom, right = box_of(alpha)
        strip = pixels[:, top:bottom, left:right].astype(int)
        across = strip[1, 0]
        flipped = across[0] > across[-1]
        mirrored += flipped
        strip = strip[:, :, ::-1] if flipped else strip
        y0, x0 = strip[0, 0, 0], strip[1, 0, 0] // 2
        window = source[y0 : y0 + strip.shape[1], x0 : x0 + strip.shape[2]].transpose(2, 0, 1)
        assert np.abs(strip - window).max() <= 3
    assert 15 <= mirrored <= 45


def test_jitter_changes_the_brightness_by_at_most_half():
    values = [pixels[0][alpha > 0].mean() for pixels, alpha, _ in strips(200, jitter=0.5)]
    assert min(values) < 55 and max(values) > 190 and len(set(np.round(values))) > 50
    assert all(29 <= value <= 255 for value in values)


@pytest.fixture(params=["compiled", "plain"])
def loops(request, monkeypatch):
    """Strips are cut by compiled loops, or by Pillow."""
    if request.param == "compiled":
        pytest.importorskip("numba")
        compiled.start(compiled.WORTH)
        assert resampling.is_compiled() and jitter._is_pillows(), "else Pillow does it, which is the other case"
        return
    for each in (resampling._weigh_rows, jitter._enhance):
        monkeypatch.setattr(each, "_compiled", None)


def noises(count, size=(110, 50)):
    """Rows of training images, and what reads them; it counts how often it is called."""
    pictures = np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    read = Mock(side_effect=lambda number: Image.fromarray(pictures[number]))
    return [(number, 0, 0) for number in range(count)], read, pictures[0].nbytes


def pasted(transform, count=30):
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        found += [pixels.copy() for pixels, _, _ in results(transform, 1)]
    return np.stack(found)


def by_hand(pictures, count=30):
    """The same strips by Pillow and torchvision alone."""
    found = []
    for seed in range(count):
        torch.manual_seed(seed)
        torch.rand(())
        which, upright, share, place, far, mirror, order, *factors = torch.rand(10, dtype=torch.float64).tolist()
        whole, across = (WIDTH, True) if upright < 0.5 else (HEIGHT, False)
        thick = round(whole * (1 + share) / 4)
        picture = pictures(int(which * 6))
        scale = (picture.width if across else picture.height) / whole
        low, high = (scale * (place * (whole - thick) + side) for side in (0, thick))
        box = (low, 0, high, picture.height) if across else (0, low, picture.width, high)
        strip = picture.resize((thick, HEIGHT) if across else (WIDTH, thick), Image.Resampling.BILINEAR, box)
        if mirror < 0.5:
            strip = strip.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for number in list(permutations(range(3)))[int(6 * order)]:
            strip = (adjust_brightness, adjust_contrast, adjust_saturation)[number](strip, 0.5 + factors[number])
        strip = np.asarray(strip).transpose(2, 0, 1)
        image, start = np.zeros((3, HEIGHT, WIDTH), np.uint8), int(far * 2) * (whole - thick)
        where = slice(start, start + thick)
        image[(slice(None), slice(None), where) if across else (slice(None), where)] = strip
        found.append(image)
    return np.stack(found)


@pytest.mark.parametrize("size", [(110, 50), (300, 140), (257, 128), (700, 400), (900, 60)])
def test_strips_are_those_of_pillow_and_torchvision_to_the_bit(size, loops):
    items, read, _ = noises(6, size)
    transform = OAMN(prob=1)
    transform.bind(items, read)
    np.testing.assert_array_equal(pasted(transform), by_hand(read))


def test_strips_are_the_same_with_images_decoded_ahead(monkeypatch):
    items, read, size = noises(6)
    one, other = OAMN(prob=1), OAMN(prob=1)
    one.bind(items, read)
    other.bind(items, read)
    expected = pasted(one)
    read.reset_mock()
    monkeypatch.setattr("occplug.transforms.oamn.room_ahead", lambda: 6 * size)
    one.prepare(HEIGHT, WIDTH)
    assert [call.args[0] for call in read.call_args_list] == [0, 1, 2], "as far as there is memory"
    other.prepare(HEIGHT, WIDTH)
    assert read.call_count == 3, "what another pipeline has decoded is shared, and counts as memory taken"
    monkeypatch.setattr("occplug.transforms.oamn.room_ahead", lambda: 12 * size)
    other.prepare(HEIGHT, WIDTH)
    assert [call.args[0] for call in read.call_args_list] == list(range(6))
    np.testing.assert_array_equal(pasted(one), expected)
    read.reset_mock()
    np.testing.assert_array_equal(pasted(other), expected)
    assert not read.called
    assert not other.__getstate__()["_decoded"], "they are not sent to processes that are spawned"


def test_probability_and_mistakes():
    assert not any(alpha.any() for _, alpha, _ in strips(20, prob=0.0))
    with pytest.raises(ConfigError, match="oamn cuts its strips from training images, and none were bound"):
        OAMN(prob=1)(black())
    with pytest.raises(ConfigError, match="augment.oamn.jitter is 3; it must be from 0 to 1"):
        OAMN(jitter=3)


def test_a_pipeline_binds_the_transforms_that_want_it():
    pipeline = build_pipeline(
        ["oamn", "rwoa"], 64, 32, [0.5] * 3, [0.5] * 3, {"oamn": {"prob": 1.0}, "rwoa": {"prob": 0.0}}
    )
    pipeline.bind([("x",)], lambda path: Image.new("RGB", (30, 60), (255, 255, 255)))
    assert pipeline(Image.new("RGB", (30, 60))).max() > 0
