"""Images in whatever form a user has them, one person each, as RGB pictures with names for messages."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from occplug.datasets.boxes import Box, Frame, cut, read_boxes, with_frames
from occplug.errors import ConfigError, DataError
from occplug.utils.files import user_path
from occplug.utils.imagefile import open_picture

__all__ = [
    "BOXES",
    "ENDINGS",
    "Source",
    "crops_of",
    "is_boxes",
    "is_single",
    "list_images",
    "open_source",
    "prefetched",
    "read_named",
]

ENDINGS = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
COLORS = ("rgb", "bgr")
BOXES = "coco:"  # before the name of a JSON file with boxes in frames


class Source(NamedTuple):
    """One image that is not read yet.

    Args:
        name: its path, or what messages call it.
        read: gives it as an RGB picture; raises DataError if it cannot be read.
    """

    name: str
    read: Callable[[], Image.Image]


def list_images(folder: str | os.PathLike) -> list[str]:
    """Paths of all images below `folder`, sorted; hidden files and folders are passed over.

    Raises:
        DataError: there is none.
    """
    images = []
    for place, folders, files in os.walk(user_path(folder)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        images += [os.path.join(place, n) for n in files if not n.startswith(".") and n.lower().endswith(ENDINGS)]
    if not images:
        raise DataError(f"{folder}: there is no image in this folder or below it (looked for {', '.join(ENDINGS)})")
    return sorted(images)


def is_single(given) -> bool:
    """Whether `given` is one image, and not a collection of them."""
    if isinstance(given, (str, os.PathLike)):
        return not _is_collection(given)
    if isinstance(given, (np.ndarray, Tensor)):
        return given.ndim < 4
    return isinstance(given, Image.Image)


def _is_collection(given) -> bool:
    """Whether `given` names a folder, or boxes in frames."""
    if not isinstance(given, (str, os.PathLike)):
        return False
    return is_boxes(given) or (not os.fsdecode(given).lower().endswith(ENDINGS) and user_path(given).is_dir())


def is_boxes(given) -> bool:
    """Whether `given` is `coco:FILE`."""
    return isinstance(given, str) and given.startswith(BOXES)


def _collected(given) -> list[Source]:
    """The images of a folder, or the parts of frames that `coco:FILE` names."""
    if not is_boxes(given):
        return [_source(path, 0, COLORS[0]) for path in list_images(given)]
    return [_part(box, frame) for box, frame in with_frames(read_boxes(given[len(BOXES) :])[0])]


def _part(box: Box, frame: Frame) -> Source:
    return Source(box.name, lambda: frame.cut(box))


def read_named(name: str) -> Image.Image:
    """The picture that embeddings call `name`: a file, or `FRAME[x1,y1,x2,y2]`. Raises DataError as `open_picture`."""
    part = re.fullmatch(r"(.+)\[(\d+),(\d+),(\d+),(\d+)\]", name, re.S)
    if part is None or os.path.isfile(name):
        return open_picture(name)
    return cut(open_picture(part[1]), [int(number) for number in part.groups()[1:]], name)


def open_source(given, color: str = "rgb") -> tuple[Iterator[Source], int | None]:
    """The images of `given` one after the other, and how many there are, where that is known.

    Args:
        given: a path, a folder, `coco:FILE` (boxes in frames), a PIL image, an array [H, W, 3] or [N, H, W, 3] of
            uint8, a tensor [3, H, W] or [N, 3, H, W] of uint8, or a list, tuple, generator or other iterable of these.
        color: order of the channels of arrays and tensors, "rgb", or "bgr" as OpenCV reads them.

    Raises:
        ConfigError: another `color`.
        DataError: `given` or one of its items is something else; the message says what was expected.
    """
    if color not in COLORS:
        raise ConfigError(f"color is {color!r}; arrays are 'rgb', or 'bgr' as OpenCV reads them")
    if _is_collection(given):
        sources = _collected(given)
        return iter(sources), len(sources)
    if is_single(given):
        return iter([_source(given, 0, color)]), 1
    if not isinstance(given, Iterable):
        raise DataError(f"a {type(given).__name__} is no image; give {_EXPECTED}")
    count = len(given) if isinstance(given, Sized) else None
    if count is not None and any(map(_is_collection, given)):
        count = None
    return _sources(given, color), count


def _sources(given: Iterable, color: str) -> Iterator[Source]:
    place = 0
    for item in given:
        for each in _collected(item) if _is_collection(item) else [_source(item, place, color)]:
            yield each
            place += 1


_EXPECTED = "a path, a folder, a PIL image, a uint8 array [H, W, 3], a uint8 tensor [3, H, W], or a list of these"


def _source(item, place: int, color: str) -> Source:
    if isinstance(item, (str, os.PathLike)):
        return Source(os.fspath(item), lambda: _of_file(item))
    name = f"image[{place}]"
    if isinstance(item, Image.Image):
        name = getattr(item, "filename", "") or name
        return Source(os.fsdecode(name), lambda: open_picture(item, name=name))
    if isinstance(item, (np.ndarray, Tensor)):
        return Source(name, lambda: _of_pixels(item, name, color))
    raise DataError(f"{name} is a {type(item).__name__}; give {_EXPECTED}")


_ELSEWHERE = {
    "folder": "folder: is for data sets (-s, -t); give the folder's path alone",
    "csv": "csv: is for data sets (-s, -t); give the images' folder, and the table with --metadata",
}


def _of_file(path) -> Image.Image:
    try:
        return open_picture(path)
    except DataError:
        if user_path(path).exists():
            raise
        kind = os.fsdecode(path).partition(":")[0]
        raise DataError(f"{path}: the image file is missing; {_ELSEWHERE.get(kind, 'check the path')}") from None


def _of_pixels(pixels: np.ndarray | Tensor, name: str, color: str) -> Image.Image:
    if color == "bgr" and pixels.ndim == 3:
        if isinstance(pixels, Tensor):
            pixels = pixels.flip(0) if pixels.shape[0] == 3 else pixels
        elif pixels.shape[2] == 3:
            pixels = np.ascontiguousarray(pixels[..., ::-1])
    return open_picture(pixels, name=name)


def crops_of(frame, boxes, color: str = "rgb") -> tuple[Iterator[Source], int]:
    """The parts of one `frame` inside `boxes`, cut at its borders, and their number.

    Args:
        frame: one image in any form that `open_source` takes.
        boxes: [N, 4] corners x1, y1, x2, y2 in pixels, x2 and y2 not included; a box may reach over the border.

    Raises:
        DataError: `frame` is no single image, `boxes` have another shape or are not finite.
    """
    if not is_single(frame):
        raise DataError("boxes belong to one frame; call embed once a frame")
    sources, _ = open_source(frame, color)
    name, read = next(sources)
    corners = np.asarray(boxes.cpu() if isinstance(boxes, Tensor) else boxes, dtype=np.float64)
    if corners.size == 0:
        return iter(()), 0
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise DataError(f"boxes are [N, 4] with x1, y1, x2, y2, got {list(corners.shape)}")
    if not np.isfinite(corners).all():
        raise DataError("boxes hold numbers that are not finite")
    picture, frame_name = read(), name if name != "image[0]" else "frame"
    return (_crop(picture, frame_name, place, box) for place, box in enumerate(corners)), len(corners)


def _crop(frame: Image.Image, name: str, place: int, box: np.ndarray) -> Source:
    name = f"{name}[{place}]"

    return Source(name, lambda: cut(frame, box.tolist(), name))


def prefetched(
    sources: Iterator[Source], prepare: Callable[[Image.Image], Tensor], workers: int, ahead: int
) -> Iterator[tuple[str, Tensor | DataError]]:
    """Each image's name with what `prepare` makes of it, or with the error if it cannot be read; in order.

    Args:
        workers: threads that read and prepare; decoding and resizing release Python's lock. 0: none.
        ahead: images that are read before they are asked for, at most.
    """

    def load(source: Source) -> tuple[str, Tensor | DataError]:
        try:
            return source.name, prepare(source.read())
        except DataError as error:
            return source.name, error

    if workers == 0:
        yield from map(load, sources)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        try:
            for source in sources:
                waiting.append(pool.submit(load, source))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
