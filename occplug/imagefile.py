"""Reading image files: a broken one is an error at once."""

from __future__ import annotations

import os

from PIL import Image, UnidentifiedImageError

from occplug.errors import DataError

__all__ = ["original_message", "read_image"]


def read_image(path) -> Image.Image:
    """The picture at `path` as RGB.

    Raises:
        DataError: missing, empty, truncated, or not an image; names the file.
    """
    path = os.fspath(path)
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"{path}: the image file is missing; restore it, or list the data set anew") from error
    except UnidentifiedImageError as error:
        kind = "is empty (0 bytes)" if os.path.getsize(path) == 0 else "is not an image"
        raise DataError(f"{path}: the file {kind}; replace or delete it") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: the image is damaged ({error}); replace or delete it") from error


def original_message(error: BaseException) -> str:
    """The message of `error` without the traceback that a data loading worker puts before it."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    name = type(error).__name__ + ": "
    return text[text.rindex(name) + len(name) :].strip()
