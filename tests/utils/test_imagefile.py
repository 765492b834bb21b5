"""Broken image files: one message each, no retry, the same through a data loading worker."""

import io
import pickle
import random

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from occplug.errors import DataError
from occplug.utils.imagefile import original_message, read_image

CURE = "replace it by an intact copy, or delete it"


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
    Image.fromarray(grey.astype(np.float32)).save(tmp_path / "b.tif")
    assert (
        message(tmp_path / "b.tif")
        == f"{tmp_path / 'b.tif'}: the image has floating-point pixels; save it with 8 or 16 bits, or delete it"
    )


def test_missing(tmp_path):
    path = tmp_path / "a.jpg"
    assert message(path) == f"{path}: the image file is missing; restore it, or start again to list the set anew"


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
    assert message(path) == f"{path}: the file is not an image; {CURE}"


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
