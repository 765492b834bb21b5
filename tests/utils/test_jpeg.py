"""simplejpeg in place of Pillow: the same pixels to the bit, or not used."""

import io

import numpy as np
import pytest
from PIL import Image

from occplug.errors import DataError
from occplug.utils import jpeg
from occplug.utils.imagefile import MAX_PIXELS, open_picture

simplejpeg = pytest.importorskip("simplejpeg")
SIZES = [(1, 1), (7, 9), (16, 16), (17, 33), (64, 128), (110, 261)]


def picture(size, seed=0, channels=3) -> np.ndarray:
    """Noise over a smooth ramp: both flat blocks and large coefficients."""
    width, height = size
    draws = np.random.default_rng(seed)
    ramp = np.linspace(0, 255, width)[None, :, None] * np.linspace(1, 0, height)[:, None, None]
    noisy = ramp + draws.normal(0, 60, (height, width, channels)) * (draws.random((height, width, 1)) < 0.5)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def saved(pixels, **options) -> bytes:
    stream = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(stream, "JPEG", **options)
    return stream.getvalue()


def pillows(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("quality", [5, 50, 90])
def test_pixels_are_pillows_to_the_bit(size, quality):
    files = [
        saved(picture(size, subsampling), quality=quality, subsampling=subsampling, progressive=progressive)
        for subsampling in range(3)
        for progressive in (False, True)
    ]
    files += [
        simplejpeg.encode_jpeg(picture(size), quality, colorspace="RGB", colorsubsampling=kind)
        for kind in ("444", "422", "420", "440", "411")
    ]
    files.append(saved(picture(size)[..., 0], quality=quality))
    files.append(saved(picture(size), quality=quality, optimize=True, restart_marker_blocks=1))
    for data in files:
        found = jpeg.decoded(data, MAX_PIXELS)
        assert found is not None
        np.testing.assert_array_equal(found, pillows(data))


def with_segment(data: bytes, marker: int, body: bytes) -> bytes:
    return data[:2] + bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body + data[2:]


def test_what_libraries_may_read_otherwise_is_left_to_pillow():
    plain = saved(picture((17, 33)))
    tags = Image.Exif()
    tags[0x0112] = 6
    left = [
        saved(Image.fromarray(picture((17, 33), channels=4), "CMYK")),
        saved(picture((17, 33)), exif=tags),
        saved(picture((17, 33)), keep_rgb=True),
        with_segment(plain, 0xEE, b"Adobe\x00\x64\x00\x00\x00\x00\x00"),
        with_segment(plain, 0xE2, b"MPF\x00"),
        plain.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc9\x00\x11\x08"),  # arithmetic codes
        plain[:40],
        b"\xff\xd8\xff",
        b"",
    ]
    assert jpeg.decoded(plain, MAX_PIXELS) is not None
    assert [jpeg.decoded(data, MAX_PIXELS) for data in left] == [None] * len(left)
    assert jpeg.decoded(plain, 17 * 33 - 1) is None  # too many pixels


def test_damage_is_said_in_pillows_words_with_and_without(tmp_path, monkeypatch):
    whole, draws = saved(picture((24, 48))), np.random.default_rng(0)
    path, outcomes = tmp_path / "a.jpg", []
    for number in range(120):
        data = bytearray(whole[: draws.integers(len(whole))] if number % 2 else whole)
        for place in draws.integers(0, max(len(data), 1), draws.integers(0, 6) if data else 0):
            data[place] = draws.integers(256)
        path.write_bytes(data)
        both = []
        for agrees in (True, False):
            monkeypatch.setattr(jpeg, "_agrees", lambda agrees=agrees: agrees)
            try:
                both.append(np.asarray(open_picture(path)).tolist())
            except DataError as error:
                both.append(str(error))
        assert both[0] == both[1]
        outcomes.append(isinstance(both[0], str))
    assert 20 < sum(outcomes) < 115  # of 120, some are only spoilt within the pixels


def test_other_pixels_of_simplejpeg_keep_it_unused(monkeypatch):
    assert jpeg._agrees()
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *a, **k: decode(*a, **{**k, "fastupsample": True}))
    assert not jpeg._agrees.__wrapped__()


def test_without_simplejpeg_pillow_decodes(monkeypatch):
    monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)
    assert not jpeg._agrees.__wrapped__()


@pytest.mark.parametrize("color", ["RGB", "L"])
def test_a_file_is_read_in_every_mode(tmp_path, color):
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(picture((17, 33))))
    expected = Image.open(path).convert("RGB").convert(color)
    np.testing.assert_array_equal(np.asarray(open_picture(path, color)), np.asarray(expected))
