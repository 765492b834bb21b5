"""Cut-outs from photographs with COCO-format instance annotations."""

from __future__ import annotations

import collections
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from occplug.errors import DataError
from occplug.occluders.categories import Category, read_categories
from occplug.occluders.filters import PER_CATEGORY, Candidate, cut, largest, reason_against
from occplug.occluders.writing import Piece, trimmed
from occplug.utils.files import user_path
from occplug.utils.imagefile import MAX_PIXELS, read_image
from occplug.utils.texts import read_json

__all__ = ["AnnotatedObjects"]

_FAR = 1e9  # pixels
log = logging.getLogger(__name__)


class AnnotatedObjects:
    """The objects of a COCO-format file that make good occluders; iterating reads the images and cuts them out.

    Args:
        annotations: json with `images`, `annotations` (polygons) and `categories`; names, not ids, choose the category.
        images: folder of the files that `images` names.
        categories: file of the category table; empty for the package's own. Other categories are left out.
        per_category: so many of each, the largest first.

    Raises:
        DataError: the json cannot be used, images are absent, or no object is left. Names the file and the cure.
    """

    def __init__(self, annotations, images, categories: str = "", per_category: int = PER_CATEGORY):
        self.file, self.folder = user_path(annotations), user_path(images)
        table = read_categories(categories)
        content = _read(self.file)
        try:
            self.images = {image["id"]: self._checked(image) for image in content["images"]}
            self.licences = {entry.get("id"): entry.get("name", "unknown") for entry in content.get("licenses") or []}
            names = {entry["id"]: entry["name"] for entry in content["categories"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{self.file}: an image, a category or a licence is not COCO's form ({error!r})") from error
        self.left_out: collections.Counter = collections.Counter()
        self.candidates = largest(self._candidates(content["annotations"], names, table), per_category)
        if not self.candidates:
            reasons = ", ".join(f"{n} {why}" for why, n in self.left_out.most_common()) or "it has no annotation"
            raise DataError(f"{self.file}: no object is left after the filters: {reasons}")
        self._check_images()

    def _checked(self, image: dict) -> dict:
        """`image`, whose name and size can be. Raises DataError."""
        name, sides = image["file_name"], (image["width"], image["height"])
        where = f"{self.file}: image {image['id']!r}"
        if not isinstance(name, str) or not name:
            raise DataError(f"{where}: file_name is {name!r}, expected the name of a file; correct or delete the image")
        if not all(type(side) is int and side > 0 for side in sides) or sides[0] * sides[1] > MAX_PIXELS:
            size = " x ".join(map(repr, sides))
            raise DataError(f"{where}: it is {size} pixels, expected whole numbers and at most {MAX_PIXELS:,} pixels")
        return image

    def __len__(self) -> int:
        return len(self.candidates)

    def _candidates(self, rows: list, names: dict, table: Mapping[str, Category]) -> Iterator[Candidate]:
        for number, row in enumerate(rows):
            try:
                candidate, reason = self._candidate(row, names.get(row["category_id"]), table)
            except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
                raise DataError(f"{self.file}: annotation {_id(row, number)} is not COCO's form ({error!r})") from error
            if candidate is not None and reason is None:
                yield candidate
            else:
                self.left_out[reason] += 1

    def _candidate(self, row: dict, name: str | None, table) -> tuple[Candidate | None, str | None]:
        if name is None or name not in table:
            return None, "of a category that is not in the table"
        if row.get("iscrowd") or not isinstance(row["segmentation"], list) or not row["segmentation"]:
            return None, "a crowd, or without polygons"
        image = self.images[row["image_id"]]
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in row["segmentation"]])
        if not (np.abs(points) < _FAR).all():  # also where one is not a number
            raise ValueError("a polygon has corners that are not finite, or far outside")
        low, high = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
        size = (image["width"], image["height"])
        left, top = max(0, int(low[0])), max(0, int(low[1]))
        box = (left, top, min(size[0], int(high[0]) + 1), min(size[1], int(high[1]) + 1))
        if box[2] <= box[0] or box[3] <= box[1]:
            return None, "outside its image"
        area = int((_filled(row["segmentation"], box) > 0).sum())
        note = {"dataset": self.file.name, "image": image["id"], "annotation": row.get("id")}
        candidate = Candidate(name, image["file_name"], box, area, (row["segmentation"], row["image_id"]), note)
        return candidate, reason_against(candidate, size, table)

    def _check_images(self) -> None:
        wanted = dict.fromkeys(candidate.image for candidate in self.candidates)
        present = {name for name in wanted if (self.folder / name).is_file()}
        missing = [name for name in wanted if name not in present]
        if missing:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise DataError(
                f"{self.folder}: {len(missing)} of the {len(wanted)} images of {self.file} are absent: {shown}; "
                "name the folder that holds them"
            )

    def __iter__(self) -> Iterator[Piece]:
        name, picture, fits = "", np.empty((0, 0, 3), np.uint8), False
        for candidate in self.candidates:
            polygons, image_id = candidate.shape
            if candidate.image != name:
                name, picture = candidate.image, np.asarray(read_image(self.folder / candidate.image))
                fits = self._has_stated_size(picture, self.images[image_id])
            if not fits:
                continue
            left, top, right, bottom = candidate.box
            mask = np.zeros(picture.shape[:2], np.uint8)
            mask[top:bottom, left:right] = _filled(polygons, candidate.box)
            licence = str(self.licences.get(self.images[image_id].get("license"), "unknown"))
            yield Piece(candidate.category, trimmed(cut(picture, mask, candidate.box)), candidate.note, licence)

    def _has_stated_size(self, picture: np.ndarray, stated: dict) -> bool:
        """Polygons are in pixels of the stated size; on a picture of another size they would cut out anything."""
        if picture.shape[:2] == (stated["height"], stated["width"]):
            return True
        size = f"{picture.shape[1]} x {picture.shape[0]}"
        log.warning("%s: %s pixels, not the size that %s states; left out", stated["file_name"], size, self.file.name)
        return False


def _id(row, number: int):
    return row.get("id", number) if isinstance(row, dict) else number


def _filled(polygons: list, box: tuple[int, int, int, int]) -> np.ndarray:
    """Polygons [[x, y, x, y, ...], ...] in image coordinates -> uint8 mask of the box, 255 inside."""
    left, top, right, bottom = box
    canvas = Image.new("L", (right - left, bottom - top))
    drawing = ImageDraw.Draw(canvas)
    for polygon in polygons:
        points = np.reshape(polygon, (-1, 2)) - (left, top)
        drawing.polygon([tuple(point) for point in points.tolist()], fill=255)
    return np.asarray(canvas)


def _read(file: Path) -> dict:
    try:
        content = read_json(file)
    except OSError as error:
        raise DataError(f"{file}: the annotation file cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{file}: the annotation file is not json ({error}); download it again") from error
    parts = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in parts):
        raise DataError(f"{file}: not COCO instance annotations, which have the lists {', '.join(parts)}")
    return content
