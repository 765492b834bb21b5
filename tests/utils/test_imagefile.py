"""Broken image files: one message each, no retry, the same through a data loading worker."""

import io
import pickle
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin
from torch.utils.data import DataLoader

from occplug.errors import DataError
from occplug.utils.imagefile import MAX_PIXELS, open_picture, original_message, read_image

CURE = "replace it by an intact copy, or delete it"
LISTED = "JPEG, PNG, BMP, TIFF, PPM and WebP"


PIXELS = np.random.default_rng(0).integers(0, 256, (48, 24, 3), dtype=np.uint8)


def picture(kind="JPEG", mode="RGB") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(stream, kind)
    return stream.getvalue()


def message(path) -> str:
    with pytest.raises(DataError) as caught:
        read_image(path)
    return str(caught.value)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_pictures_come_as_rgb(tmp_path, mode):
    path = tmp_path / "a.jpg"
    path.write_bytes(picture(mode=mode))
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (24, 48))
    assert np.asarray(image).std() > 0
    path.unlink()  # decoded: the file is no longer needed
    image.resize((2, 2))


def test_pixels_are_pils(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(picture("TIFF"))
    assert np.array_equal(np.asarray(read_image(str(path))), PIXELS)


def test_sixteen_bits_come_as_eight(tmp_path):
    path, grey = tmp_path / "a.png", PIXELS[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    assert np.array_equal(np.asarray(read_image(path)), np.repeat(grey[..., None], 3, axis=2))


def test_missing(tmp_path):
    path = tmp_path / "a.jpg"
    assert message(path) == f"{path}: the image file is missing; restore it, or start again to list the set"


def test_zero_bytes(tmp_path):
    path = tmp_path / "a.jpg"
    path.touch()
    assert message(path) == f"{path}: the file is empty (0 bytes); {CURE}"


def test_truncated(tmp_path):
    path = tmp_path / "a.jpg"
    whole = picture()
    path.write_bytes(whole[: len(whole) // 2])
    assert message(path) == f"{path}: the image is damaged (image file is truncated (61 bytes not processed)); {CURE}"


def test_text_called_jpg(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("<html>404</html>\n")
    assert message(path) == f"{path}: the file is not an image, or none of {LISTED}; {CURE}"


def test_a_folder(tmp_path):
    path = tmp_path / "a.jpg"
    path.mkdir()
    assert message(path) == f"{path}: the image file cannot be read (Is a directory); {CURE}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "PPM"])
def test_whatever_the_damage_it_is_a_data_error(tmp_path, kind):
    whole, draw = picture(kind), random.Random(0)
    path, failed = tmp_path / "a.jpg", 0
    for number in range(150):
        data = bytearray(whole)
        if number % 2:
            data = data[: draw.randrange(len(data))]
        for _ in range(draw.randint(0, 8) if data else 0):
            data[draw.randrange(min(len(data), 200))] = draw.randrange(256)
        path.write_bytes(data)
        try:
            read_image(path)
        except DataError as error:
            failed += str(error).startswith(f"{path}: the ")
    assert failed > 70


class Broken:
    """Two images, the second of which is empty."""

    def __init__(self, folder):
        self.paths = [folder / "a.jpg", folder / "b.jpg"]
        self.paths[0].write_bytes(picture())
        self.paths[1].touch()

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return np.array(read_image(self.paths[index]))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_message_survives_a_worker(tmp_path, workers):
    data = Broken(tmp_path)
    with pytest.raises(DataError) as caught:
        list(DataLoader(data, batch_size=1, num_workers=workers))
    assert ("Original Traceback" in str(caught.value)) == bool(workers)
    assert original_message(caught.value) == f"{data.paths[1]}: the file is empty (0 bytes); {CURE}"


def test_original_message_takes_the_last_error_of_a_chain_whole():
    told = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    first = "  File x\noccplug.errors.DataError: an inner one\n\nThe above exception was the direct cause of ...\n\n"
    last = "Traceback ...\noccplug.errors.DataError: a.jpg: after DataError: this\nand a second line\n"
    error = DataError(told + first + last)
    assert original_message(error) == "a.jpg: after DataError: this\nand a second line"
    assert original_message(DataError("plain")) == "plain"
    assert original_message(RuntimeError(f"{told} strange")) == f"{told} strange"


def test_errors_are_pickled_whole():
    error = pickle.loads(pickle.dumps(DataError("a.jpg: broken")))
    assert type(error) is DataError and str(error) == "a.jpg: broken"


# ---------------------------------------------------------------------- one picture, however it comes


def tagged(path, orientation: int, pixels=PIXELS):
    """Save `pixels`, as a camera that was held otherwise saves them: turned, with a tag that says how."""
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what undoes what the tag asks for, as PIL's Transpose
    image = Image.fromarray(pixels)
    turned = image.transpose(Image.Transpose(turn[orientation]))
    exif = turned.getexif()
    exif[0x0112] = orientation
    turned.save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
def test_orientation_tags_are_applied_by_path_and_by_object(tmp_path, orientation, ending):
    path = tagged(tmp_path / f"a.{ending}", orientation)
    if ending == "webp":
        Image.open(path).save(path, lossless=True, exif=Image.open(path).getexif())
    upright = open_picture(path)
    assert upright.size == (24, 48)
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(open_picture(picture)), np.asarray(upright))
    if ending != "webp":
        assert np.array_equal(np.asarray(upright), PIXELS)
    assert 0x0112 not in upright.getexif()  # so that it is not applied twice
    assert np.array_equal(np.asarray(open_picture(upright)), np.asarray(upright))


def test_a_jpeg_with_a_tag_is_upright_and_one_without_is_pils_to_the_bit(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(picture())
    assert np.array_equal(np.asarray(read_image(path)), np.asarray(Image.open(path).convert("RGB")))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(tmp_path / "b.jpg", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "b.jpg"))
    assert read_image(tmp_path / "b.jpg").size == (48, 24)
    assert np.array_equal(np.asarray(read_image(tmp_path / "b.jpg")), np.asarray(expected))


def test_unreadable_tags_are_no_damage(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(path).size == (24, 48)


def test_sixteen_bits_are_the_same_by_path_object_and_array(tmp_path):
    wide = np.random.default_rng(1).integers(0, 65536, (9, 5)).astype(np.uint16)
    expected = np.repeat((wide // 257).astype(np.uint8)[..., None], 3, axis=2)
    for ending in ("png", "tif"):
        Image.fromarray(wide).save(tmp_path / f"a.{ending}")
        assert np.array_equal(np.asarray(open_picture(tmp_path / f"a.{ending}")), expected)
        assert np.array_equal(np.asarray(open_picture(Image.open(tmp_path / f"a.{ending}"))), expected)
    wide_int = Image.fromarray(wide.astype(np.int32))
    for source in (wide, Image.fromarray(wide), wide_int, wide[..., None], np.stack([wide] * 3, axis=2)):
        assert np.array_equal(np.asarray(open_picture(source)), expected)


def test_floating_point_is_the_unit_range_by_path_object_array_and_tensor(tmp_path):
    grey = np.random.default_rng(1).random((9, 5), dtype=np.float32)
    grey[0, :2] = 0, 1
    expected = np.repeat(np.round(grey * 255).astype(np.uint8)[..., None], 3, axis=2)
    Image.fromarray(grey).save(tmp_path / "a.tif")
    tensor = torch.from_numpy(grey)
    sources = [tmp_path / "a.tif", Image.fromarray(grey), grey, grey.astype(np.float64), np.stack([grey] * 3, 2)]
    for source in (*sources, tensor, tensor[None], tensor.expand(3, -1, -1)):
        assert np.array_equal(np.asarray(open_picture(source)), expected)


@pytest.mark.parametrize("factor, shown", [(255, "from 0 to 255"), (-1, "from -1 to 0"), (np.nan, "from nan to nan")])
def test_other_floats_are_refused_not_black(tmp_path, factor, shown):
    values = np.linspace(0, 1, 8, dtype=np.float32).reshape(4, 2) * np.float32(factor)
    Image.fromarray(values).save(tmp_path / "a.tif")
    cure = "divide by the value of white, or save it with 8 or 16 bits"
    for source, name in [
        (tmp_path / "a.tif", tmp_path / "a.tif"),
        (values, "an array"),
        (torch.tensor(values), "an array"),
    ]:
        with pytest.raises(DataError) as caught:
            open_picture(source)
        told = str(caught.value).replace("-0 ", "0 ").replace("to -0", "to 0")
        assert told == f"{name}: the picture has floating-point pixels {shown}, expected [0, 1]; {cure}"


def test_arrays_and_tensors_of_eight_bits_are_the_picture():
    rgba = np.dstack([PIXELS, PIXELS[..., 0]])
    chw = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for source in (PIXELS, PIXELS[::-1][::-1], rgba, chw, Image.fromarray(PIXELS)):
        assert np.array_equal(np.asarray(open_picture(source)), PIXELS)
    assert np.array_equal(np.asarray(open_picture(rgba, "RGBA")), rgba)
    assert open_picture(PIXELS[..., 0], "L").mode == "L"


@pytest.mark.parametrize(
    "source, told",
    [
        (PIXELS[5:5], "an array: the picture has no area (24 x 0 pixels); leave such crops out"),
        (PIXELS[:, 3:2], "an array: the picture has no area (0 x 48 pixels); leave such crops out"),
        (torch.zeros(3, 0, 4), "an array: the picture has no area (4 x 0 pixels); leave such crops out"),
        (Image.new("RGB", (0, 7)), "a PIL image: the picture has no area (0 x 7 pixels); leave such crops out"),
        (Image.fromarray(PIXELS).crop((4, 4, 4, 9)), "a PIL image: the picture has no area (0 x 5 pixels)"),
        (PIXELS.transpose(2, 0, 1), "an array of a picture is [H, W] or [H, W, 3], a tensor [3, H, W]; this"),
        (PIXELS.astype(np.int64), "an array: arrays of type int64 are not pictures; give uint8, uint16, or floats"),
        (PIXELS > 3, "an array: arrays of type bool are not pictures"),
        (Image.fromarray(PIXELS[..., 0]).convert("I"), "nothing says which of them is white; save it"),
        (np.zeros((20000, 20000), np.uint8), "20000 x 20000 = 400,000,000 pixels, more than the limit of 67,108,864"),
        (3, "a int is no picture; give a path, a PIL image, a numpy array or a tensor"),
        (None, "a NoneType is no picture"),
    ],
)  # fmt: skip
def test_what_is_no_picture_is_refused(source, told):
    with pytest.raises(DataError) as caught:
        open_picture(source)
    assert told in str(caught.value)


# ---------------------------------------------------------------------- formats and sizes


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    "start, kind",
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "PostScript"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\0\0\0\x20ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"<svg xmlns=''></svg>", "SVG"),
        (b"PK\x03\x04", "a zip archive or a pickle"),
    ],
)
def test_only_listed_formats_are_opened(tmp_path, start, kind, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / "x.jpg"
    path.write_bytes(start)
    expected = f"{path}: the file is {kind}, whatever its name says; only {LISTED} are opened, so convert it"
    assert message(path) == expected


def test_other_formats_that_pillow_knows_are_refused_by_path_and_object(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(PIXELS).save(path, "GIF")
    assert message(path) == f"{path}: the file is GIF, whatever its name says; only {LISTED} are opened, so convert it"
    Image.fromarray(PIXELS).save(path, "EPS")
    with Image.open(path) as lazy, pytest.raises(DataError) as caught:
        open_picture(lazy)
    cure = "convert it, or give picture.convert('RGB')"
    assert str(caught.value) == f"{path}: EPS is not opened, only {LISTED} are; {cure}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("side", [9000, 12000, 30000])
def test_sizes_are_checked_before_pixels_are_decoded(tmp_path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    told = message(path)
    assert f"{MAX_PIXELS:,}" in told and ("too large" in told or f"{side * side:,} pixels, more than the limit" in told)


@pytest.mark.parametrize("kind", ["text", "international", "packed", "after"])
def test_long_texts_in_a_png_are_no_damage(tmp_path, kind):
    notes, path, long = PngImagePlugin.PngInfo(), tmp_path / "a.png", "x" * (2 << 20)
    if kind == "after":
        data = picture("PNG")
        path.write_bytes(data[:-12] + chunk(b"zTXt", b"a\0\0" + zlib.compress(long.encode())) + data[-12:])
    else:
        for number in range(40 if kind == "text" else 1):
            add = notes.add_itxt if kind == "international" else notes.add_text
            add(f"note {number}", long, **({} if kind == "text" else {"zip": True}))
        Image.fromarray(PIXELS).save(path, pnginfo=notes, compress_level=0)
    assert np.array_equal(np.asarray(read_image(path)), PIXELS)


# ---------------------------------------------------------------------- every reader agrees


def readers(folder):
    """name -> function from a path to uint8 [H, W, 3], of everything that reads pictures."""
    from occplug import torchreid_host as host
    from occplug.data.loaders import Images
    from occplug.masks.making import Job, make_masks
    from occplug.transforms import build_pipeline

    def seen_by_mask_maker(path):
        got = []
        make_masks([Job(path, folder / f"{path.name}.npy")], lambda batch: got.extend(batch) or [None] * len(batch))
        return (got[0] * 255).round().byte().permute(1, 2, 0).numpy()

    def seen_by_data_set(path):
        rows = Images([(str(path), 0, 0)], build_pipeline([], 48, 24, (0, 0, 0), (1, 1, 1), {}, "bilinear"))
        return rows[0]["img"].permute(1, 2, 0).numpy()

    return {
        "open_picture": lambda path: np.asarray(open_picture(path)),
        "masks": seen_by_mask_maker,
        "data set": seen_by_data_set,
        "visrank": lambda path: host.CvWithOurPictures().imread(str(path))[..., ::-1],
    }


@pytest.mark.parametrize("name", ["open_picture", "masks", "data set", "visrank"])
def test_readers_agree_on_turned_wide_and_floating_point_pictures(tmp_path, name):
    read, grey = readers(tmp_path)[name], PIXELS[..., 0]
    same = np.repeat(grey[..., None], 3, axis=2)
    assert np.array_equal(read(tagged(tmp_path / "a.png", 6)), PIXELS)
    assert np.array_equal(read(tagged(tmp_path / "b.tif", 3)), PIXELS)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "c.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "d.tif")
    assert np.array_equal(read(tmp_path / "c.png"), same) and np.array_equal(read(tmp_path / "d.tif"), same)
    (tmp_path / "e.jpg").write_bytes(b"%!PS-Adobe")
    with pytest.raises(DataError, match="e.jpg: the file is PostScript, whatever its name says"):
        read(tmp_path / "e.jpg")


def test_an_embedding_is_that_of_the_picture_however_it_is_given(tmp_path):
    import occplug

    model = occplug.load("zoo://clip_reid/vit_tiny/synthocc")
    path = tagged(tmp_path / "a.png", 8)
    same = [path, str(path), Image.open(path), PIXELS, Image.fromarray(PIXELS), PIXELS.astype(np.uint16) * 257]
    found = model.embed([*same, torch.from_numpy(PIXELS).permute(2, 0, 1), PIXELS / 255]).vector
    torch.testing.assert_close(found, found[:1].expand_as(found), atol=1e-5, rtol=1e-5)
    with pytest.raises(DataError, match="has no area"):
        model.embed([PIXELS[:0]])
