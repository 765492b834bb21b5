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
from occplug.datasets.listing import IMAGE_ENDINGS, list_tree
from occplug.errors import ConfigError, DataError
from occplug.utils.files import user_path
from occplug.utils.imagefile import open_picture

__all__ = [
    "BOXES",
    "Source",
    "crops_of",
    "is_boxes",
    "is_single",
    "list_images",
    "listed",
    "names_of",
    "open_source",
    "prefetched",
    "read_named",
]

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
    """Whole paths of all images below `folder`, sorted, those that `folder:DIR` finds; hidden ones are passed over.

    Raises:
        DataError: there is none, or one is a link to nothing.
    """
    images = [file.path for file in list_tree(os.path.abspath(user_path(folder)))[0]]
    if not images:
        raise DataError(
            f"{folder}: there is no image in this folder or below it (looked for {', '.join(IMAGE_ENDINGS)})"
        )
    return images


def listed(inputs: Iterable[str]) -> list[str]:
    """`inputs` with the images of folders in their place, so that what is embedded is known before it is read."""
    folders = (each if is_boxes(each) or not _is_collection(each) else list_images(each) for each in inputs)
    return [path for each in folders for path in ([each] if isinstance(each, str) else each)]


def names_of(inputs: Iterable[str]) -> list[str]:
    """What embeddings call the images of `inputs`, which :func:`listed` gave, in their order; no picture is read."""
    return [source.name for source in open_source(list(inputs))[0]]


def is_single(given) -> bool:
    """Whether `given` is one image, and not a collection of them."""
    if isinstance(given, (str, os.PathLike)):
        return not _is_collection(given)
    if _is_array_of_items(given):
        return False
    if isinstance(given, (np.ndarray, Tensor)):
        return given.ndim < 4
    return isinstance(given, Image.Image)


def _is_array_of_items(given) -> bool:
    """Whether `given` is an array of texts or objects, which holds no pixels but e.g. paths."""
    return isinstance(given, np.ndarray) and given.dtype.kind in "USO" and given.ndim > 0


def _is_collection(given) -> bool:
    """Whether `given` names a folder, or boxes in frames."""
    if not isinstance(given, (str, os.PathLike)):
        return False
    return is_boxes(given) or (not os.fsdecode(given).lower().endswith(IMAGE_ENDINGS) and user_path(given).is_dir())


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
    if _is_array_of_items(given):
        given = given.ravel().tolist()
    if isinstance(given, (bytes, bytearray, memoryview)):
        raise DataError(f"a {type(given).__name__} is no image; open it with PIL.Image.open(io.BytesIO(...))")
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
        return Source(os.path.abspath(user_path(item)), lambda: _of_file(item))
    name = f"image[{place}]"
    if isinstance(item, (bytes, bytearray, memoryview)):
        raise DataError(f"{name} is a {type(item).__name__}; open it with PIL.Image.open(io.BytesIO(...))")
    if isinstance(item, Image.Image):
        given = getattr(item, "filename", "")
        name = os.path.abspath(os.fsdecode(given)) if given else name
        return Source(name, lambda: open_picture(item, name=name))
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
    corners = _corners(boxes)
    if corners.size == 0:
        return iter(()), 0
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise DataError(f"boxes are [N, 4] with x1, y1, x2, y2, got {list(corners.shape)}")
    if not np.isfinite(corners).all():
        raise DataError("boxes hold numbers that are not finite")
    picture, frame_name = read(), name if name != "image[0]" else "frame"
    return (_crop(picture, frame_name, place, box) for place, box in enumerate(corners)), len(corners)


def _corners(boxes) -> np.ndarray:
    """`boxes` as numbers. Raises DataError for what is none."""
    try:
        return np.asarray(boxes.detach().cpu() if isinstance(boxes, Tensor) else boxes, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"boxes are [N, 4] numbers x1, y1, x2, y2, one row a box; {error}") from error


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
