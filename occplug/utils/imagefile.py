"""Opening pictures: what a picture is, is decided here alone, whether it comes from a file, from PIL or as an array.

* Only the formats of :data:`FORMATS` are opened. Pillow knows more, and some of them start other programs: PostScript
  named `x.jpg` would run `gs`.
* The orientation tag (EXIF) is applied, so that every reader has the picture upright.
* 8 bits a channel come out. 16-bit pixels (0 to 65,535) are divided by 257; floating-point ones lie in [0, 1].
* No picture has more than :data:`MAX_PIXELS` pixels, or none. Both are checked before pixels are decoded.
* A broken file is an error at once, never a retry.
* JPEG files are decoded by simplejpeg where that gives the same pixels (:mod:`occplug.utils.jpeg`), else by Pillow.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import zlib

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from occplug.errors import DataError
from occplug.utils import jpeg
from occplug.utils.files import user_path

__all__ = ["FORMATS", "MAX_PIXELS", "check_header", "open_picture", "original_message", "read_image", "read_pixels"]

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "PPM", "WEBP")
MAX_PIXELS = 1 << 26  # 8,192 x 8,192: a whole 8K frame has half as many

# What PIL's decoders raise on damaged files.
_DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
_DAMAGE += (LookupError, TypeError, ArithmeticError, AttributeError)
_TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_CURE = "replace it by an intact copy, or delete it"
_LISTED = "JPEG, PNG, BMP, TIFF, PPM and WebP"
# first bytes of what is often named .jpg and is not one of FORMATS
_SIGNATURES = (
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript"),
    (rb"%PDF", "PDF"),
    (rb"GIF8", "GIF"),
    (rb"....ftyp(avif|avis)", "AVIF"),
    (rb"....ftyp(hei|hev|mif1|msf1)", "HEIC"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\s*(<\?xml[^>]*>\s*)?<svg", "SVG"),
    (rb"\x80\x02|PK\x03\x04", "a zip archive or a pickle"),
)
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_NOTES = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_ORIENTATION = 0x0112  # EXIF's number of the tag


def read_image(path: str | os.PathLike) -> Image.Image:
    """The picture in file `path`, upright, as RGB with 8 bits a channel; raises DataError as :func:`open_picture`."""
    return open_picture(path)


def read_pixels(path: str | os.PathLike) -> Image.Image | np.ndarray:
    """As :func:`read_image`; pixels uint8 [H, W, 3] in place of a picture where those are what the decoder gave."""
    name = str(user_path(path))
    return _of_file(name, "RGB", name, as_picture=False)


def open_picture(source, color: str = "RGB", name: str = "") -> Image.Image:
    """A picture, decoded and upright, with 8 bits a channel.

    Args:
        source: a path; a PIL image; an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] of uint8, uint16 or
            floating-point numbers in [0, 1], channels in the order red, green, blue (, alpha); or a tensor [C, H, W] or
            [H, W] of the same. The orientation tag of a PIL image counts as that of a file does.
        color: mode of the result, "RGB", "RGBA" or "L". With "RGBA" the picture must have an alpha channel.
        name: what messages call it; the path if not given.

    Raises:
        DataError: missing, empty, damaged, of another format than `FORMATS`, of no or too many pixels, or of values
            outside the ranges above; names the file and the cure.
    """
    if isinstance(source, Image.Image):
        name = name or os.fsdecode(getattr(source, "filename", "") or "a PIL image")
        with _naming_damage(name):
            return _of_pil(source, color, name)
    if isinstance(source, (np.ndarray, torch.Tensor)):
        return _converted(_of_array(source, name or "an array"), color, name or "an array")
    try:
        path = str(user_path(source))
    except TypeError:
        kind = type(source).__name__
        raise DataError(f"a {kind} is no picture; give a path, a PIL image, a numpy array or a tensor") from None
    return _of_file(path, color, name or path)


# ---------------------------------------------------------------------- where it comes from


def _of_file(path: str, color: str, name: str, as_picture: bool = True):
    try:
        with open(path, "rb") as file:
            start = file.read(2)
            pixels = jpeg.decoded(start + file.read(), MAX_PIXELS) if start == b"\xff\xd8" else None
            if pixels is not None:
                if not as_picture:
                    return pixels
                picture = Image.fromarray(pixels)
                return picture if color == picture.mode else _converted(picture, color, name)  # which would copy it
            file.seek(0)
            return _decoded(file, color, name)
    except FileNotFoundError:
        raise DataError(f"{name}: the image file is missing; restore it, or start again to list the set") from None
    except OSError as error:
        raise DataError(f"{name}: the image file cannot be read ({error.strerror or error}); {_CURE}") from error


def _decoded(file, color: str, name: str) -> Image.Image:
    with _naming_damage(name):
        try:
            return _opened(file, color, name)
        except UnidentifiedImageError:
            file.seek(0)
            raise DataError(f"{name}: {_what_it_is(file.read(64))}") from None
        except ValueError as error:
            if "MAX_TEXT" not in str(error):
                raise
            file.seek(0)
            return _opened(io.BytesIO(_without_notes(file.read())), color, name)


def _opened(file, color: str, name: str) -> Image.Image:
    with Image.open(file, formats=FORMATS) as picture:
        return _of_pil(picture, color, name)


@contextlib.contextmanager
def _naming_damage(name: str):
    try:
        yield
    except _TOO_LARGE as error:
        raise DataError(f"{name}: the picture is too large, the limit is {MAX_PIXELS:,} pixels ({error})") from error
    except _DAMAGE as error:
        raise DataError(f"{name}: the image is damaged ({str(error) or type(error).__name__}); {_CURE}") from error


def _of_pil(picture: Image.Image, color: str, name: str) -> Image.Image:
    kind = getattr(picture, "format", None)  # None once it is no longer what a file holds
    if kind not in (None, "MPO", *FORMATS):
        raise DataError(f"{name}: {kind} is not opened, only {_LISTED} are; convert it, or give picture.convert('RGB')")
    _check_size(picture.size, name)
    picture.load()
    return _converted(_eight_bits(_upright(picture), name), color, name)


def _of_array(values, name: str) -> Image.Image:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().movedim(0, -1) if values.ndim == 3 else values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()  # numpy knows no bfloat16
    shape = values.shape
    if values.ndim == 3 and shape[2] == 1:
        values = values[..., 0]
    if values.ndim not in (2, 3) or (values.ndim == 3 and shape[2] not in (3, 4)):
        raise DataError(
            f"{name}: an array of a picture is [H, W] or [H, W, 3], a tensor [3, H, W]; this is {list(shape)}"
        )
    _check_size(shape[1::-1], name)
    if values.dtype.kind == "f":
        return Image.fromarray(_from_unit_range(values, name))
    if values.dtype not in (np.uint8, np.uint16):
        raise DataError(
            f"{name}: arrays of type {values.dtype} are not pictures; give uint8, uint16, or floats in [0, 1]"
        )
    return Image.fromarray(np.ascontiguousarray(values if values.dtype == np.uint8 else _from_16_bits(values)))


# ---------------------------------------------------------------------- what is done to it


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise DataError(f"{name}: the picture has no area ({width} x {height} pixels); leave such crops out")
    if width * height > MAX_PIXELS:
        raise DataError(
            f"{name}: the picture has {width} x {height} = {width * height:,} pixels, more than the limit of "
            f"{MAX_PIXELS:,}; make it smaller"
        )


def _upright(picture: Image.Image) -> Image.Image:
    """`picture` turned as its orientation tag says; where the tags are unreadable, as where there is none."""
    try:
        turned = picture.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except _DAMAGE:
        return picture
    return ImageOps.exif_transpose(picture) if turned else picture


def _eight_bits(picture: Image.Image, name: str) -> Image.Image:
    """`picture`, with wider pixels brought down to 8 bits: PIL would cut all above 255 off."""
    if picture.mode == "F":
        return Image.fromarray(_from_unit_range(np.asarray(picture), name))
    if not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535 or (picture.mode == "I" and 0 < high <= 255):
        raise DataError(
            f"{name}: the picture has 32-bit pixels from {low} to {high}, and nothing says which of them is white; "
            "save it with 8 or 16 bits"
        )
    return Image.fromarray(_from_16_bits(values))


def _from_16_bits(values: np.ndarray) -> np.ndarray:
    return (values // 257).astype(np.uint8)


def _from_unit_range(values: np.ndarray, name: str) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also where one is not a number
        raise DataError(
            f"{name}: the picture has floating-point pixels from {low:g} to {high:g}, expected [0, 1]; divide by the "
            "value of white, or save it with 8 or 16 bits"
        )
    return np.round(values * 255).astype(np.uint8)


def _converted(picture: Image.Image, color: str, name: str) -> Image.Image:
    if color == "RGBA" and "A" not in picture.getbands() and "transparency" not in picture.info:
        raise DataError(f"{name}: the picture has no alpha channel (mode {picture.mode}); cut-outs are RGBA")
    try:
        return picture.convert(color)
    except ValueError as error:
        raise DataError(f"{name}: pixels of mode {picture.mode} are not read ({error}); save it as RGB") from error


# ---------------------------------------------------------------------- words


def _what_it_is(start: bytes) -> str:
    if not start:
        return f"the file is empty (0 bytes); {_CURE}"
    for pattern, kind in _SIGNATURES:
        if re.match(pattern, start, re.DOTALL):
            return f"the file is {kind}, whatever its name says; only {_LISTED} are opened, so convert it"
    return f"the file is not an image, or none of {_LISTED}; {_CURE}"


def _without_notes(data: bytes) -> bytes:
    """The PNG `data` without texts and colour profiles: Pillow refuses an intact picture whose texts are long."""
    if not data.startswith(_PNG):
        return data
    kept, position = [_PNG], len(_PNG)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind not in _PNG_NOTES:
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


def original_message(error: BaseException) -> str:
    """The message of `error`; of one that a data loading worker sent, without the worker's traceback before it."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    starts = list(re.finditer(rf"^(?:\w+\.)*{type(error).__name__}: ", text, re.MULTILINE))
    return text[starts[-1].end() :].strip() if starts else text


def check_header(path: str | os.PathLike) -> None:
    """Raise DataError, as :func:`read_image`, for what a file's first bytes tell: missing, empty, of another format."""
    name = str(user_path(path))
    try:
        with open(name, "rb") as file, _naming_damage(name):
            try:
                with Image.open(file, formats=FORMATS) as picture:
                    _check_size(picture.size, name)
            except UnidentifiedImageError:
                file.seek(0)
                raise DataError(f"{name}: {_what_it_is(file.read(64))}") from None
    except OSError as error:
        raise DataError(f"{name}: the image file cannot be read ({error.strerror or error}); {_CURE}") from error
