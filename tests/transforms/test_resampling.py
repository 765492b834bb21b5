"""The compiled resize: Pillow's pixels to the bit, or not used."""

import functools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from occplug.transforms import RandomCrop, Resize, resampling
from occplug.utils import compiled
from tests.data.test_manager import epochs, manager, market
from tests.transforms.test_pipeline import picture

KINDS = ["bilinear", "bicubic"]


@pytest.fixture
def loops(monkeypatch):
    """Loops compiled as for many pictures; skipped without numba."""
    pytest.importorskip("numba")
    compiled.start(compiled.WORTH)
    assert resampling.is_compiled()


@pytest.fixture
def plain(monkeypatch):
    """Loops as Python runs them, without numba."""
    for each in resampling._ALL:
        monkeypatch.setattr(each, "_compiled", each.plain)
    resampling._weights.cache_clear()
    resampling._tall_first.cache_clear()
    yield
    resampling._weights.cache_clear()
    resampling._tall_first.cache_clear()


def noise(height, width, seed=0, extreme=False):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return (pixels > 127).astype(np.uint8) * 255 if extreme else pixels


def pillows(pixels, height, width, kind, box=None):
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling[kind.upper()], box))


@pytest.mark.parametrize("kind", KINDS)
def test_any_size_is_pillows_to_the_bit(kind, loops):
    draws = np.random.default_rng(1)
    for number in range(150):
        height, width, new_height, new_width = (int(n) for n in np.exp(draws.uniform(0, 6, 4)))
        pixels = noise(height, width, number, extreme=bool(number % 2))
        found = resampling.resampled(pixels, new_height, new_width, kind)
        np.testing.assert_array_equal(found, pillows(pixels, new_height, new_width, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(128, 64), (260, 110), (300, 133), (257, 128), (256, 128), (90, 200), (700, 300)])
def test_crops_of_persons_are_pillows_to_the_bit(kind, size, loops):
    for seed in range(6):
        pixels = noise(*size, seed, extreme=seed > 3)
        found = resampling.resampled(pixels, 256, 128, kind)
        np.testing.assert_array_equal(found, pillows(pixels, 256, 128, kind))


def test_parts_of_pictures_are_pillows_to_the_bit(loops):
    draws = np.random.default_rng(2)
    for number in range(80):
        pixels = noise(*draws.integers(20, 300, 2), number, extreme=bool(number % 2))
        (top, bottom), (left, right) = (np.sort(draws.uniform(0, side, 2)) for side in pixels.shape[:2])
        if bottom - top > 1 and right - left > 1:
            box = [float(np.float32(value)) for value in (left, top, right, bottom)]
            found = resampling.resampled(pixels, 40, 70, "bilinear", (box[1], box[3]), (box[0], box[2]))
            np.testing.assert_array_equal(found, pillows(pixels, 40, 70, "bilinear", tuple(box)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_itself_is_right_without_a_compiler(kind, plain):
    for size in ((9, 7), (16, 8), (23, 20), (40, 6)):
        pixels = noise(*size)
        np.testing.assert_array_equal(resampling.resampled(pixels, 16, 8, kind), pillows(pixels, 16, 8, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_resize_of_a_pipeline_takes_it_for_pictures_and_pixels(kind, plain):
    for size in ((16, 8), (32, 16), (40, 9)):
        image = picture(*size)
        expected = pillows(np.asarray(image), 32, 16, kind)
        for given in (image, np.asarray(image)):
            np.testing.assert_array_equal(np.asarray(Resize(32, 16, kind).resized(given)), expected)


@pytest.mark.parametrize("kind", ["nearest", *KINDS])
def test_pixels_of_any_size_are_resized_as_the_picture_is_without_it(kind):
    for size in ((16, 8), (32, 16), (40, 9)):
        image = picture(*size)
        found = [np.asarray(Resize(32, 16, kind).resized(given)) for given in (image, np.asarray(image))]
        np.testing.assert_array_equal(*found)
        assert found[0].shape == (32, 16, 3)


def test_torchreids_crop_is_the_same_with_it(monkeypatch, plain):
    pixels = np.asarray(picture(32, 16))
    crop = RandomCrop(32, 16)
    found = crop.transform(pixels, {"corner": (2, 1)})
    monkeypatch.setattr(resampling._weigh_rows, "_compiled", None)
    np.testing.assert_array_equal(found, crop.transform(pixels, {"corner": (2, 1)}))


def test_other_pixels_than_pillows_keep_it_unused(monkeypatch, plain):
    assert resampling._tall_first() is not None
    resampling._tall_first.cache_clear()
    monkeypatch.setattr(resampling, "_filtered", lambda x, kind: np.maximum(1 - x, 0))  # also for bicubic
    resampling._weights.cache_clear()
    assert resampling._tall_first() is None and resampling.resampled(noise(9, 9), 4, 4, "bilinear") is None
    resampling._weights.cache_clear()


@pytest.fixture
def unstarted(monkeypatch):
    """As a new process."""
    monkeypatch.setattr(compiled, "_started", functools.cache(compiled._started.__wrapped__))
    monkeypatch.setattr(compiled, "_LOOPS", [])


def fake_numba(monkeypatch, njit):
    monkeypatch.setitem(sys.modules, "numba", SimpleNamespace(njit=njit, config=SimpleNamespace(DISABLE_JIT=False)))


def positive(number):
    return abs(number)


def twice(number):
    return 2 * inner(number)  # noqa: F821, set by the test


def test_many_pictures_compile_loops_once_whenever_they_are_imported(monkeypatch, unstarted):
    compilations = []

    def njit(signature, **options):
        compilations.append(signature)
        return lambda plain: plain

    fake_numba(monkeypatch, njit)
    early = compiled.loop("early")(positive)
    compiled.start(compiled.WORTH - 1)
    assert not compilations and not early.ready
    compiled.start(compiled.WORTH)
    late = compiled.loop("late")(positive)
    compiled.start(compiled.WORTH)
    assert compilations == ["early", "late"] and early(-2) == late(-2) == 2


def test_a_loop_calls_the_compiled_one_before_it(monkeypatch, unstarted):
    pytest.importorskip("numba")
    monkeypatch.setitem(globals(), "inner", compiled.loop("int64(int64)")(positive))
    outer = compiled.loop("int64(int64)")(twice)
    compiled.start(compiled.WORTH)
    assert outer.ready and outer(-3) == 6


def test_the_wait_for_a_first_compilation_is_said_once(monkeypatch, caplog, unstarted):
    fake_numba(monkeypatch, lambda signature, **options: lambda plain: plain)
    monkeypatch.setattr(compiled, "SLOW", -1.0)
    for _ in range(3):
        compiled.loop("any")(positive)
    with caplog.at_level("INFO", "occplug"):
        compiled.start(compiled.WORTH)
    assert caplog.text.count("compiled, once on this machine") == 1


def test_folders_that_cannot_be_written_are_no_obstacle(monkeypatch, unstarted):
    def njit(signature, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda plain: plain

    fake_numba(monkeypatch, njit)
    loop = compiled.loop("any")(positive)
    compiled.start(compiled.WORTH)
    assert loop.ready


def test_a_compiler_that_fails_leaves_the_other_way(monkeypatch, caplog, unstarted):
    def njit(*args, **options):
        raise ValueError("no target")

    fake_numba(monkeypatch, njit)
    loop = compiled.loop("any")(positive)
    with caplog.at_level("INFO", "occplug"):
        compiled.start(compiled.WORTH)
    assert not loop.ready and "numba does not compile positive here (ValueError: no target)" in caplog.text


def test_without_numba_loops_are_never_ready_and_the_log_says_how_to_have_them(monkeypatch, caplog, unstarted):
    monkeypatch.setitem(sys.modules, "numba", None)  # which makes its import fail
    loop = compiled.loop("any")(positive)
    with caplog.at_level("INFO", "occplug"):
        compiled.start(compiled.WORTH)
        compiled.start(compiled.WORTH)
    assert not loop.ready and caplog.text.count("pip install numba") == 1


def test_batches_are_the_same_with_and_without_in_any_number_of_workers(tmp_path, monkeypatch):
    pytest.importorskip("numba")
    market(tmp_path)
    names = ["random_flip", "pad_crop", "rwoa", "oia", "oamn", "random_crop"]
    seen = []
    for worth, workers in ((compiled.WORTH, 0), (1, 0), (1, 2)):
        monkeypatch.setattr(compiled, "WORTH", worth)
        data = manager(tmp_path, "data.transforms", names, "data.workers", workers)
        seen.append(torch.cat([batch["img"] for batch in sum(epochs(data), [])]))
    assert resampling.is_compiled()
    for other in seen[1:]:
        torch.testing.assert_close(seen[0], other, rtol=0, atol=0)
