"""Boxes of people in frames: a JSON file in COCO's form, and the parts of the frames that it names.

    {"images": [{"id": 1, "file_name": "cam1/000001.jpg", "camera": "hall"}],
     "annotations": [{"id": 7, "image_id": 1, "bbox": [x, y, width, height], "person_id": 3}]}

`file_name` is relative to the folder of the JSON file. `person_id` (or `pid`), `camera` (or `camera_id`, `camid`) and
`split` are read of an annotation, the latter two also of its image. Where there are `categories`, boxes of others than
`person` are left out, and crowds (`iscrowd`) always.
"""

from __future__ import annotations

import collections
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from occplug.errors import DataError
from occplug.utils.files import user_path
from occplug.utils.imagefile import open_picture
from occplug.utils.texts import read_json

__all__ = ["CAMERA", "PERSON", "Box", "Frame", "cut", "read_boxes", "with_frames"]

PERSON, CAMERA, SPLIT = ("person_id", "pid"), ("camera", "camera_id", "camid"), ("split",)
FAR = 1e6  # pixels: no frame is so wide
MOST = 20_000_000  # boxes


class Box(NamedTuple):
    """One person in a frame: `corners` x1, y1, x2, y2 in pixels; None where the file does not say.

    Args:
        frame: path of the picture.   where: the annotation, for messages.
        size: width and height of the frame in pixels, in which the corners are.
    """

    frame: str
    corners: tuple[float, float, float, float]
    person: str | None
    camera: str | None
    split: str | None
    where: str
    size: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """What the part of the frame is called: `FRAME[x1,y1,x2,y2]`, in whole pixels."""
        return "{}[{},{},{},{}]".format(self.frame, *_whole(self.corners))


def read_boxes(file: str | os.PathLike) -> tuple[list[Box], collections.Counter]:
    """The boxes of the JSON `file`, in its order, and reason -> number of those that were left out.

    Raises:
        DataError: missing, no JSON, not of COCO's form, a box without area, or no box at all; names file and key.
    """
    path = user_path(file)
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is a {type(content).__name__}; it must be an object with images and annotations")
    images = _by_id(path, content, "images")
    wanted = _person_categories(path, content)
    boxes, left_out = [], collections.Counter()  # type: tuple[list[Box], collections.Counter]
    rows = _list(path, content, "annotations")
    if len(rows) > MOST:
        raise DataError(f"{path}: annotations has {len(rows):,} boxes, and {MOST:,} are read; make several files of it")
    for place, row in enumerate(rows):
        where = f"{path}: annotations[{place}]"
        if not isinstance(row, dict):
            raise DataError(f"{where} is a {type(row).__name__}; it must be an object with image_id and bbox")
        if row.get("iscrowd"):
            left_out["crowds (iscrowd)"] += 1
        elif wanted is not None and row.get("category_id") not in wanted:
            left_out["of another category than person"] += 1
        else:
            boxes.append(_box(path, row, images, where))
    if not boxes:
        reasons = ", ".join(f"{n} {why}" for why, n in left_out.items()) or "annotations is empty"
        raise DataError(f"{path}: it has no box of a person ({reasons})")
    return boxes, left_out


def _list(path: Path, content: dict, key: str) -> list:
    if not isinstance(content.get(key), list):
        raise DataError(f"{path}: {key} is {'missing' if key not in content else 'no list'}; it must be a list")
    return content[key]


def _by_id(path: Path, content: dict, key: str) -> dict:
    result = {}
    for place, row in enumerate(_list(path, content, key)):
        where = f"{path}: {key}[{place}]"
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or not row["file_name"].strip():
            raise DataError(f"{where}.file_name is missing or no text; it is the frame's path from the JSON's folder")
        number = row.get("id")
        if not isinstance(number, (int, str)):
            raise DataError(f"{where}.id is missing, or no number or text")
        if number in result:
            raise DataError(f"{where}.id is {number!r}, which another image has, too")
        for side in ("width", "height"):
            if row.get(side) is not None and not (type(row[side]) is int and row[side] > 0):
                raise DataError(f"{where}.{side} is {row[side]!r}; it must be a whole number of pixels, or be left out")
        result[number] = row
    return result


def _person_categories(path: Path, content: dict) -> set | None:
    """Ids of the categories called person; None where the file has no categories, so that all boxes are of people."""
    if not content.get("categories"):
        return None
    rows = _list(path, content, "categories")
    if not all(isinstance(row, dict) and isinstance(row.get("id"), (int, str)) for row in rows):
        raise DataError(f"{path}: categories must be objects with id and name")
    ids = {row["id"] for row in rows if str(row.get("name", "")).lower() in ("person", "pedestrian")}
    if not ids:
        names = ", ".join(str(row.get("name")) for row in rows[:5])
        raise DataError(f"{path}: categories has no 'person', it has: {names}; rename it, or leave categories out")
    return ids


def _box(path: Path, row: dict, images: dict, where: str) -> Box:
    number = row.get("image_id")
    image = images.get(number) if isinstance(number, (int, str)) else None
    if image is None:
        raise DataError(f"{where}.image_id is {number!r}, and no image has this id")
    bbox: Any = row.get("bbox")
    numbers = isinstance(bbox, list) and len(bbox) == 4 and all(type(v) in (int, float) for v in bbox)
    if not numbers or not all(math.isfinite(v) and abs(v) < FAR for v in bbox):
        raise DataError(f"{where}.bbox is {str(bbox)[:80]}; it must be [x, y, width, height] in pixels")
    x, y, width, height = map(float, bbox)
    sides = [image.get(key) for key in ("width", "height")]
    right, bottom = (side or FAR for side in sides)
    if width <= 0 or height <= 0 or x + width <= 0 or y + height <= 0 or x >= right or y >= bottom:
        of_size = "" if FAR in (right, bottom) else f" of {right}x{bottom}"
        raise DataError(f"{where}.bbox is {bbox} and holds no pixel of the frame {image['file_name']}{of_size}")
    frame = os.path.join(os.path.abspath(path.parent), image["file_name"])
    person = _text(row, PERSON, where)
    camera, split = (_text(row, keys, where) or _text(image, keys, where) for keys in (CAMERA, SPLIT))
    size = None if None in sides else (sides[0], sides[1])
    return Box(frame, (x, y, x + width, y + height), person, camera, split, where, size)


def _text(row: dict, keys: tuple[str, ...], where: str) -> str | None:
    for key in keys:
        value = row.get(key)
        if value is None:
            continue
        if not isinstance(value, (int, str)) or isinstance(value, bool) or not str(value).strip():
            raise DataError(f"{where}: {key} is {value!r}; it must be a whole number or a text")
        return str(value).strip()
    return None


# ---------------------------------------------------------------------- pixels


def _whole(corners) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = corners
    return max(math.floor(x1), 0), max(math.floor(y1), 0), math.ceil(x2), math.ceil(y2)


def cut(frame: Image.Image, corners, name: str) -> Image.Image:
    """The part of `frame` inside `corners` x1, y1, x2, y2, cut at its borders.

    Raises:
        DataError: it holds no pixel; `name` is what the message calls it.
    """
    left, top, right, bottom = _whole(corners)
    right, bottom = min(right, frame.size[0]), min(bottom, frame.size[1])
    if right <= left or bottom <= top:
        raise DataError(
            f"{name}: the box {[round(float(v), 1) for v in corners]} holds no pixel of the frame of "
            f"{frame.size[0]}x{frame.size[1]}; boxes are x1, y1, x2, y2"
        )
    return frame.crop((left, top, right, bottom))


class Frame:
    """A picture that `count` boxes are cut from: decoded when the first is asked for, and dropped after the last."""

    def __init__(self, path: str, count: int):
        self._path, self._left, self._lock = path, count, threading.Lock()
        self._picture: Image.Image | None = None

    def pass_over(self) -> None:
        """One of the boxes is not needed."""
        with self._lock:
            self._left -= 1

    def cut(self, box: Box) -> Image.Image:
        """The part inside `box`.

        Raises:
            DataError: as `open_picture` and :func:`cut`, or the frame has another size than the file says, so that
                the box would cut out something else.
        """
        with self._lock:
            self._left -= 1
            picture = self._picture or open_picture(self._path)
            self._picture = picture if self._left > 0 else None
        if box.size not in (None, picture.size):
            stated, found = ("{}x{}".format(*size) for size in (box.size, picture.size))
            turned = " once it is turned as its orientation tag says" if box.size == picture.size[::-1] else ""
            raise DataError(
                f"{box.where}: its boxes are in a frame of {stated} pixels, and {box.frame} has {found}{turned}; "
                "make the boxes on the frames as they are shown, or write width and height as they are"
            )
        return cut(picture, box.corners, box.where)


def with_frames(boxes: list[Box]) -> Iterator[tuple[Box, Frame]]:
    """Each box with its frame; boxes of the same frame that follow each other share one."""
    start = 0
    while start < len(boxes):
        end = start
        while end < len(boxes) and boxes[end].frame == boxes[start].frame:
            end += 1
        frame = Frame(boxes[start].frame, end - start)
        for box in boxes[start:end]:
            yield box, frame
        start = end
