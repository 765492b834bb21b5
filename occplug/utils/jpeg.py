"""Decoding JPEG files with simplejpeg (libjpeg-turbo), where it is installed and gives Pillow's pixels to the bit.

It is given what both libraries decode alike: 8-bit grey and YCbCr files without EXIF tags, a second picture or a colour
transform of Adobe's. All others, and whatever simplejpeg objects to, are left to Pillow, which also words the errors.
Its fast DCT, which changes pixels, is never used.
"""

from __future__ import annotations

import functools
import io
import logging
import struct
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["decoded"]

log = logging.getLogger(__name__)
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended sequential and progressive, with Huffman codes
_OTHER_FRAMES = (0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_START_OF_SCAN = 0xDA
# application segments that change what is shown: marker -> how they begin
_LEFT_TO_PILLOW = {0xE1: b"Exif", 0xE2: b"MPF", 0xEE: b"Adobe"}
# numbers of the components; with others (the letters R, G, B) libraries guess the colours
_COMPONENTS = (b"\x01", b"\x01\x02\x03")
_SUBSAMPLINGS = ("444", "422", "420", "440", "411", "Gray")


def decoded(data: bytes, most: int) -> np.ndarray | None:
    """uint8 [H, W, 3] of the JPEG file `data`; None where Pillow has to decode it.

    Args:
        most: pixels. A larger picture is left to Pillow, where its size is refused.
    """
    if not data.startswith(b"\xff\xd8\xff") or not _is_plain(data, most) or not _agrees():
        return None
    return _decoded(data)


def _decoded(data: bytes) -> np.ndarray | None:
    decode = _simplejpeg().decode_jpeg
    try:
        return decode(data, colorspace="RGB", fastdct=False, fastupsample=False, strict=True)
    except (ValueError, RuntimeError):
        return None


def _is_plain(data: bytes, most: int) -> bool:
    """Whether the segments before the first scan are of the kinds that both libraries read alike."""
    position, frames = 2, 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _START_OF_SCAN:
            return frames == 1
        body = data[position + 4 : position + 2 + length]
        if marker in _FRAMES:
            frames += 1
            if not _is_plain_frame(body, most):
                return False
        elif marker in _OTHER_FRAMES or length < 2:
            return False
        elif marker in _LEFT_TO_PILLOW and body.startswith(_LEFT_TO_PILLOW[marker]):
            return False
        position += 2 + length
    return False


def _is_plain_frame(body: bytes, most: int) -> bool:
    if len(body) < 6:
        return False
    bits, height, width, count = struct.unpack_from(">BHHB", body)
    return bits == 8 and 0 < height * width <= most and body[6 : 6 + 3 * count : 3] in _COMPONENTS


# ---------------------------------------------------------------------- whether it may be used


@functools.cache
def _simplejpeg() -> Any:
    """The module; None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


@functools.cache
def _agrees() -> bool:
    """Whether simplejpeg is there and decodes samples of all kinds as this Pillow does; tried once a process."""
    if _simplejpeg() is None:
        return False
    for data in _samples():
        pixels = _decoded(data)
        if pixels is None or not np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))):
            log.info("simplejpeg does not give Pillow's pixels here, so Pillow decodes JPEG files")
            return False
    return True


def _samples() -> list[bytes]:
    """Small noisy JPEG files of every subsampling, baseline and progressive, of odd sizes."""
    draws = np.random.default_rng(0)
    made = []
    for kind in _SUBSAMPLINGS:
        pixels = draws.integers(0, 256, (43, 29, 1 if kind == "Gray" else 3), dtype=np.uint8)
        colours = {"colorspace": "Gray"} if kind == "Gray" else {"colorspace": "RGB", "colorsubsampling": kind}
        made.append(_simplejpeg().encode_jpeg(pixels, quality=80, **colours))
    for subsampling in range(3):
        stream = io.BytesIO()
        pixels = draws.integers(0, 256, (37, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(stream, "JPEG", quality=70, progressive=True, subsampling=subsampling)
        made.append(stream.getvalue())
    return made
