"""Reading image files: a broken one is an error at once, never a retry."""

from __future__ import annotations

import os
import re
import struct

import numpy as np
from PIL import Image, UnidentifiedImageError

from occplug.errors import DataError

__all__ = ["original_message", "read_image"]

# What PIL's decoders raise on damaged files: cut and changed bytes of seven formats gave the first three and the last.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
_CURE = "replace it by an intact copy, or delete it"


def read_image(path: str | os.PathLike) -> Image.Image:
    """The picture in file `path`, decoded, as RGB.

    Raises:
        DataError: missing, empty, truncated, or not an image; names the file and the cure.
    """
    path = os.fspath(path)
    try:
        with Image.open(path) as picture:
            return _eight_bits(picture, path).convert("RGB")
    except FileNotFoundError:
        raise DataError(f"{path}: the image file is missing; restore it, or start again to list the set anew") from None
    except (IsADirectoryError, PermissionError) as error:
        raise DataError(f"{path}: the image file cannot be read ({error.strerror}); {_CURE}") from error
    except UnidentifiedImageError as error:
        kind = "is empty (0 bytes)" if os.path.getsize(path) == 0 else "is not an image"
        raise DataError(f"{path}: the file {kind}; {_CURE}") from error
    except _DAMAGE as error:
        raise DataError(f"{path}: the image is damaged ({error}); {_CURE}") from error


def _eight_bits(picture: Image.Image, path: str) -> Image.Image:
    """`picture`, with 16 bits a pixel brought down to 8: PIL would cut all above 255 off."""
    if picture.mode == "F":
        raise DataError(f"{path}: the image has floating-point pixels; save it with 8 or 16 bits, or delete it")
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).clip(0, 65535) // 257).astype(np.uint8))


def original_message(error: BaseException) -> str:
    """The message of `error`; of one that a data loading worker sent, without the worker's traceback before it."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    starts = list(re.finditer(rf"^(?:\w+\.)*{type(error).__name__}: ", text, re.MULTILINE))
    return text[starts[-1].end() :].strip() if starts else text
