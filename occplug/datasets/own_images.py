"""What a user's images have in common wherever they are listed: unknown cameras, drawn splits, numbers of names.

* **Cameras** that nothing tells are unknown: training images get one camera, query images the number -1 and gallery
  images -2, so that no rule leaves a gallery image out, and the protocol line says `camera filter no`.
* **Splits** that nothing tells are drawn by `data.split_id`: half of the identities train, the other half are the test;
  of a set that is tested on alone, all are the test. Each of the test has one query per camera with a match in another
  one, or one query where cameras are unknown.
"""

from __future__ import annotations

import collections
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from occplug.datasets.common import MOST_PERSONS, Labelled, ReidDataset
from occplug.datasets.layouts import Layout
from occplug.datasets.listing import ImageFile, real_paths
from occplug.errors import DataError
from occplug.utils.files import user_path
from occplug.utils.logs import warn_once

__all__ = [
    "GALLERY_CAMERA",
    "GROUPS",
    "JUNK",
    "QUERY_CAMERA",
    "SPLITS",
    "SPLIT_FOLDERS",
    "OwnImages",
    "Row",
    "first_names",
    "split_of",
]

log = logging.getLogger(__name__)

SPLITS = ("train", "query", "gallery", "test")  # "test" is parted into query and gallery by `data.split_id`
GROUPS = ("pid", "camid", "split")  # of a pattern, and columns of a CSV beside its path
QUERY_CAMERA, GALLERY_CAMERA = -1, -2  # where cameras are unknown: never equal, so that no image is left out
JUNK = "-1"
# Folders that tell the split -> the split
SPLIT_FOLDERS = {
    "bounding_box_train": "train",
    "bounding_box_test": "gallery",
    **{split: split for split in SPLITS},
}
_SHOWN = 5  # names in a message


class Row(NamedTuple):
    """What is known of an image: texts, None where nothing tells."""

    file: ImageFile
    person: str
    camera: str | None
    split: str | None


class OwnImages(ReidDataset):
    """Images that a user names by path; subclasses state in `_rows` what is known of each.

    Identities that are whole numbers keep them; other names are numbered from 1 in sorted order. Identity -1 is junk.

    Attributes:
        has_cameras: whether cameras are known.
        is_drawn: whether the split was drawn, or the queries of a given test side.
        tells_sides: whether training and test side are given.
        rows: (path, person, camera or "", split) of all images, as a CSV of this class would list them.
    Args:
        place: the path, relative to the current folder, or below `root`.
        root: folder of data sets (data.root).
        pattern: regular expression that finds the groups pid and, if it has them, camid and split in an image's path
            below the folder (data.pattern).
        split_id: number that chooses the split where none is given (data.split_id).
        whole: all identities are for the test where no split is given.
        options: as of `ReidDataset`.
    Raises:
        DataError: missing, no images, unreadable names or lines, or identities in both training and test.
        ConfigError: a pattern that is none.
    """

    name: str  # type: ignore[misc]  # of the object here: the place is in it
    pattern: str  # type: ignore[misc]
    kind: ClassVar[str]
    train: list[tuple]
    query: list[tuple]
    gallery: list[tuple]
    shared_cure = "give all images of a person the same side: train, or query and gallery"
    _junk_pids: list[int] = []

    def __init__(
        self, place: str, root: str = "", pattern: str = "", split_id: int = 0, whole: bool = False, **options
    ):
        self.place, self.pattern, self.split_id, self.whole = place, pattern, split_id, whole
        self.name = f"{self.kind}:{place}"
        super().__init__(root, **options)

    def listed(self) -> list[dict[str, str]]:
        """Rows of a CSV that gives this set again: path, pid, camid where cameras are known, split."""
        columns = ("path", *GROUPS)
        return [{column: value for column, value in zip(columns, row) if value} for row in self.rows]

    def _located(self, exists: Callable[[str], bool], what: str) -> str:
        path = str(user_path(self.place))
        for candidate in (path, os.path.join(self.root, path)):
            if exists(candidate):
                return os.path.abspath(candidate)
        raise DataError(f"{self.name}: there is no {what} {os.path.abspath(path)}; check the path")

    def _rows(self) -> list[Row]:
        raise TypeError(f"{type(self).__name__} does not state its images")

    def _read(self, layout: Layout) -> dict[str, list[Labelled]]:
        every = self._rows()
        rows = [row for row in every if row.person != JUNK]
        self.left_out["junk (person -1)"] += len(every) - len(rows)
        if not rows:
            raise DataError(f"{self.name}: all {len(every)} images are junk (identity -1); name their identities")
        self._refuse_shared_files(rows)
        self.pid_of = _numbers([row.person for row in rows])
        self.has_cameras, cameras = self._numbered_cameras(rows)
        sides = self._sides(rows, cameras)
        self.rows = [
            (row.file.path, row.person, row.camera or "" if self.has_cameras else "", side)
            for row, side in zip(rows, sides)
        ]
        splits: dict[str, list[Labelled]] = {"train": [], "query": [], "gallery": []}
        unknown = {"train": 0, "query": QUERY_CAMERA, "gallery": GALLERY_CAMERA}
        for row, camera, side in zip(rows, cameras, sides):
            camid = camera if self.has_cameras else unknown[side]
            splits[side].append(Labelled(row.file, self.pid_of[row.person], camid))
        return splits

    def _refuse_shared_files(self, rows: list[Row]) -> None:
        """Raise DataError for a file that two persons have: one of them is wrong, and training would learn both."""
        first: dict[str, Row] = {}
        for row, path in zip(rows, real_paths([row.file.path for row in rows])):
            other = first.setdefault(path, row)
            if other.person != row.person:
                raise DataError(
                    f"{self.name}: {other.file.path} and {row.file.path} are the same image, under the identities "
                    f"{other.person} and {row.person}; remove the wrong one"
                )

    def _numbered_cameras(self, rows: list[Row]) -> tuple[bool, list[int]]:
        """Whether cameras are known, and each image's, from 0 in the order of their numbers or names."""
        texts = [row.camera for row in rows if row.camera is not None]
        if len(texts) < len(rows):
            if texts:
                warn_once(
                    log, f"{self.name}: {len(rows) - len(texts)} of {len(rows)} images have no camera, so none is used"
                )
            warn_once(log, f"{self.name}: cameras are unknown; it is evaluated without the camera filter")
            return False, [0] * len(rows)
        number = _numbers(texts)
        place = {text: position for position, text in enumerate(sorted(number, key=lambda text: number[text]))}
        return True, [place[text] for text in texts]

    # ---- splits

    def _sides(self, rows: list[Row], cameras: list[int]) -> list[str]:
        given = [row.split for row in rows if row.split is not None]
        if given and len(given) < len(rows):
            lacking = [row.file.path for row in rows if row.split is None]
            raise DataError(f"{self.name}: {first_names(lacking)} have no split; give it for all images, or for none")
        self.is_drawn, self.tells_sides = not given or "test" in given, bool(given)
        pids = [self.pid_of[row.person] for row in rows]
        rng = np.random.default_rng(self.split_id)
        if not given:
            given = self._halves(pids, cameras, rng)
        if self.whole and not self.tells_sides:
            given = ["test"] * len(rows)
        sides = self._queries(pids, cameras, given, rng)
        if self.is_drawn:
            log.info(
                "%s: the split is drawn by data.split_id = %d: %d training, %d query and %d gallery images",
                self.name, self.split_id, *(sides.count(side) for side in ("train", "query", "gallery")),
            )  # fmt: skip
        return sides

    def _halves(self, pids: list[int], cameras: list[int], rng) -> list[str]:
        """Side of each image, train or test: half of the identities with a possible query, and half of the others."""
        cameras_of: dict[int, list[int]] = {}
        for person, camera in zip(pids, cameras):
            cameras_of.setdefault(person, []).append(camera)
        if len(cameras_of) < 2:
            raise DataError(
                f"{self.name}: all images are of one person; a training and a test set need two at least. One folder "
                "per person is read, or file names that hold the identity; for others set data.pattern (--pattern)"
            )
        searchable = {p for p, of_pid in cameras_of.items() if len(set(of_pid) if self.has_cameras else of_pid) > 1}
        test: set[int] = set()
        for group, spare in ((searchable, 1), (cameras_of.keys() - searchable, 0)):
            order = rng.permutation(sorted(group)).tolist()
            test.update(order[: (len(order) + spare) // 2])
        return ["test" if person in test else "train" for person in pids]

    def _queries(self, pids: list[int], cameras: list[int], given: Sequence[str], rng) -> list[str]:
        """`given` with each "test" made a query or a gallery image."""
        sides, images = list(given), collections.defaultdict(list)
        for index, side in enumerate(given):
            if side == "test":
                sides[index] = "gallery"
                images[pids[index]].append((index, cameras[index] if self.has_cameras else 0))
        for person in sorted(images):
            for index in self._drawn(images[person], rng):
                sides[index] = "query"
        return sides

    def _drawn(self, images: list[tuple[int, int]], rng) -> dict[int, int]:
        """Queries of one person's (index, camera): one a camera, as long as each keeps a match in the gallery."""
        queries: dict[int, int] = {}
        for camera in sorted({camera for _, camera in images}):
            of_camera = [index for index, other in images if other == camera]
            trial = queries | {of_camera[int(rng.integers(len(of_camera)))]: camera}
            left = [other for index, other in images if index not in trial]
            if all(any(not self.has_cameras or other != query for other in left) for query in trial.values()):
                queries = trial
        return queries

    # ---- what torchreid gets

    def _start(self, train: list, query: list, gallery: list, options: dict) -> None:
        if query and gallery:
            super()._start(train, query, gallery, options)
            return
        if options.get("mode") != "train" or not train:
            raise DataError(self.untestable(bool(query)))
        super()._start(train, train, train, options | {"combineall": False})
        self.query: list = []
        self.gallery: list = []

    def untestable(self, has_queries: bool = False) -> str:
        """Why this set without queries, or without gallery images, cannot be a target, and the cure."""
        lacking = "gallery" if has_queries else "query"
        pair = "two images of different cameras" if self.has_cameras else "two images"
        half = "" if self.whole else " of its test half"
        reason = f"no person{half} has {pair}" if self.is_drawn else f"no image has the split {lacking}"
        return (
            f"{self.name} has no {lacking} images, so it cannot be tested on: {reason}; add such images, or keep it in "
            "data.sources alone"
        )

    def combine_all(self) -> None:
        """As of `ReidDataset`; images of unknown cameras have the one of the training images."""
        super().combine_all()
        self.train = [(path, pid, max(camid, 0), *rest) for path, pid, camid, *rest in self.train]

    def _fingerprint(self, splits: dict[str, list[Labelled]]) -> str:
        """Of names, sizes and labels, the same for a folder and for a CSV that lists it so."""
        start = os.path.commonpath([os.path.dirname(image.file.path) for images in splits.values() for image in images])
        digest = hashlib.sha256()
        for split, images in splits.items():
            lines = sorted(f"{self._described(image.file, start)} {image.pid} {image.camid}\n" for image in images)
            digest.update(f"{split}\n{''.join(lines)}".replace(os.sep, "/").encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _described(self, file: ImageFile, start: str) -> str:
        """What tells `file` from other images and from other versions of it; `start` is the folder of all."""
        return f"{os.path.relpath(file.path, start)} {file.size}"


def split_of(text: str | None, where: str, name: str) -> str | None:
    """The split that `text` names, which stands at `where` of the set `name`. Raises DataError for another word."""
    if text is None:
        return None
    split = SPLIT_FOLDERS.get(text.lower())
    if split is None:
        raise DataError(f"{name}: {where} has the split {text!r}; there are: {', '.join(SPLITS)}")
    return split


def _numbers(texts: Iterable[str]) -> dict[str, int]:
    """Text -> its number where all are different whole numbers below 2^31, else its place, from 1, when sorted."""
    different = sorted(set(texts))
    if all(re.fullmatch(r"\d{1,10}", text) for text in different):
        numbers = {text: int(text) for text in different}
        if len(set(numbers.values())) == len(different) and max(numbers.values()) < MOST_PERSONS:
            return numbers
    return {text: place for place, text in enumerate(different, 1)}


def first_names(names: list[str]) -> str:
    """The first of `names`, and how many there are, for messages."""
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
