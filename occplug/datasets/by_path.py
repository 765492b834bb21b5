"""A user's images as a data set: `folder:DIR` and `csv:FILE` wherever a data set's name may stand.

* **Cameras** that no name or column tells are unknown: training images get one camera, query images the number -1 and
  gallery images -2, so that no rule leaves a gallery image out, and the protocol line says `camera filter no`.
* **Splits** that nothing tells are drawn by `data.split_id`: half of the identities train, the other half are the test;
  of those, each has one query per camera with a match in another one, or one query where cameras are unknown.
"""

from __future__ import annotations

import collections
import csv
import functools
import hashlib
import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from occplug.datasets.common import MOST_PERSONS, Labelled, ReidDataset, warn_once
from occplug.datasets.layouts import Layout, Part, inventory
from occplug.datasets.listing import IMAGE_ENDINGS, ImageFile, list_tree
from occplug.errors import ConfigError, DataError
from occplug.registry import DATASETS, get, names
from occplug.utils.files import user_path

__all__ = ["CsvImages", "FolderImages", "OwnImages", "dataset_class", "is_ours", "is_path"]

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
# Names without folders, tried in this order; one must fit all images.
KNOWN_NAMES = (
    r"(?P<pid>-?\d+)_c(?P<camid>\d+)",  # 0002_c1s1_000451_03 (Market, Duke, Occluded-Duke, SynthOcc)
    r"(?P<pid>\d+)_\d+_(?P<camid>\d+)_\d{4}(?:morning|noon|afternoon)",  # 0000_000_01_0303morning_0008_0 (MSMT17)
    r"\d_(?P<pid>\d{3,})_(?P<camid>\d)_\d\d$",  # 1_001_1_01 (CUHK03)
    r"(?P<pid>-?\d+)(?:[_.]|$)",  # 001_01 (Occluded-REID, Partial-REID)
)
# Camera below a person's folder: 0001/0001_c1s1_000451_03, alice/cam2/7, alice/camera-2_7
CAMERA_BELOW = r"(?:^|[/_-])c(?:am(?:era)?)?[_-]?(?P<camid>\d+)(?=\D|$)"
_SHOWN = 5  # names in a message


class Row(NamedTuple):
    """What is known of an image: texts, None where nothing tells."""

    file: ImageFile
    person: str
    camera: str | None
    split: str | None


def is_path(name: str) -> bool:
    """Whether `name` names a data set by its path."""
    return name.partition(":")[0] in KINDS and ":" in name


def is_ours(name: str) -> bool:
    """Whether the data set `name` is one of occplug's, by name or by path; others are torchreid's."""
    return is_path(name) or name in names(DATASETS)


def dataset_class(name: str) -> Callable[..., ReidDataset]:
    """What builds the data set `name`, from the options that `ReidDataset` takes.

    Raises:
        ConfigError: nothing has that name.
    """
    kind, colon, place = name.partition(":")
    if not colon:
        return get(DATASETS, name)
    if kind not in KINDS:
        known = ", ".join(f"{known}:PATH" for known in KINDS)
        raise ConfigError(f"{name}: data sets are not named by {kind!r}; there are: {known}")
    if not place:
        raise ConfigError(f"{name} has no path; write {name}PATH")
    return functools.partial(KINDS[kind], place)


class OwnImages(ReidDataset):
    """Images that a user names by path; subclasses state in `_rows` what is known of each.

    Persons that are all whole numbers keep them; other names are numbered from 1 in sorted order. Person -1 is junk.

    Attributes:
        has_cameras: whether cameras are known.
        is_drawn: whether the split was drawn.
        rows: (path, person, camera or "", split) of all images, as a CSV of this class would list them.
    Args:
        place: the path, relative to the current folder, or below `root`.
        root: folder of data sets (data.root).
        pattern: regular expression that finds the groups pid and, if it has them, camid and split in an image's path
            below the folder (data.pattern).
        split_id: number that chooses the split where none is told (data.split_id).
        options: as of `ReidDataset`.
    Raises:
        DataError: missing, no images, unreadable names or lines, or persons in both training and test.
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

    def __init__(self, place: str, root: str = "", pattern: str = "", split_id: int = 0, **options):
        self.place, self.pattern, self.split_id = place, pattern, split_id
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
            raise DataError(f"{self.name}: all {len(every)} images are junk (person -1); name their persons")
        self.persons = _numbers([row.person for row in rows])
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
            splits[side].append(Labelled(row.file, self.persons[row.person], camid))
        return splits

    def _numbered_cameras(self, rows: list[Row]) -> tuple[bool, list[int]]:
        """Whether cameras are known, and each image's, from 0 in the order of their numbers or names."""
        texts = [row.camera for row in rows if row.camera is not None]
        if len(texts) < len(rows):
            if texts:
                warn_once(f"{self.name}: {len(rows) - len(texts)} of {len(rows)} images tell no camera; none is used")
            warn_once(f"{self.name}: cameras are unknown; it is evaluated without the camera filter")
            return False, [0] * len(rows)
        number = _numbers(texts)
        place = {text: position for position, text in enumerate(sorted(number, key=lambda text: number[text]))}
        return True, [place[text] for text in texts]

    # ---- splits

    def _sides(self, rows: list[Row], cameras: list[int]) -> list[str]:
        told = [row.split for row in rows if row.split is not None]
        if told and len(told) < len(rows):
            lacking = [row.file.path for row in rows if row.split is None]
            raise DataError(f"{self.name}: {_first(lacking)} have no split; tell it of all images, or of none")
        self.is_drawn = not told or "test" in told
        persons = [self.persons[row.person] for row in rows]
        rng = np.random.default_rng(self.split_id)
        told = told or self._halves(persons, cameras, rng)
        sides = self._queries(persons, cameras, told, rng)
        if self.is_drawn:
            log.info(
                "%s: the split is drawn by data.split_id = %d: %d training, %d query and %d gallery images",
                self.name, self.split_id, *(sides.count(side) for side in ("train", "query", "gallery")),
            )  # fmt: skip
        return sides

    def _halves(self, persons: list[int], cameras: list[int], rng) -> list[str]:
        """Side of each image, train or test: half of the persons with a possible query, and half of the others."""
        seen: dict[int, list[int]] = {}
        for person, camera in zip(persons, cameras):
            seen.setdefault(person, []).append(camera)
        if len(seen) < 2:
            raise DataError(
                f"{self.name}: all images are of one person; a training and a test set need two at least. One folder "
                "a person is read, or names that tell persons; for others set data.pattern (--pattern)"
            )
        searchable = {p for p, own in seen.items() if len(set(own) if self.has_cameras else own) > 1}
        test: set[int] = set()
        for group, spare in ((searchable, 1), (seen.keys() - searchable, 0)):
            order = rng.permutation(sorted(group)).tolist()
            test.update(order[: (len(order) + spare) // 2])
        return ["test" if person in test else "train" for person in persons]

    def _queries(self, persons: list[int], cameras: list[int], told: Sequence[str], rng) -> list[str]:
        """`told` with each "test" made a query or a gallery image."""
        sides, images = list(told), collections.defaultdict(list)
        for index, side in enumerate(told):
            if side == "test":
                sides[index] = "gallery"
                images[persons[index]].append((index, cameras[index] if self.has_cameras else 0))
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
            if all(any(not self.has_cameras or other != own for other in left) for own in trial.values()):
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
        reason = f"no person of its test half has {pair}" if self.is_drawn else f"no image has the split {lacking}"
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
            lines = sorted(
                f"{os.path.relpath(image.file.path, start)} {image.file.size} {image.pid} {image.camid}\n"
                for image in images
            )
            digest.update(f"{split}\n{''.join(lines)}".replace(os.sep, "/").encode(errors="surrogateescape"))
        return digest.hexdigest()


class FolderImages(OwnImages):
    """`folder:DIR`: one folder a person, or names that tell persons, or `pattern`.

    Folders `train` and `query`, `gallery` or `test` (or Market's names for them) above those tell the split; images
    beside such folders are left out.
    """

    kind = "folder"

    def _locate(self) -> tuple[str, Layout]:
        return self._located(os.path.isdir, "folder"), Layout((), Part(""), Part(""))

    def _rows(self) -> list[Row]:
        files, passed_over = list_tree(self.dataset_dir)
        self.left_out += passed_over
        if not files:
            raise DataError(
                f"{self.name}: {self.dataset_dir} has no images, it holds {inventory(self.dataset_dir)}; images end in "
                f"{', '.join(IMAGE_ENDINGS)}"
            )
        if self.pattern:
            return _by_pattern(self.name, self.pattern, files)
        heads = {file.below.partition("/")[0] for file in files if "/" in file.below}
        if len(heads & SPLIT_FOLDERS.keys()) < 2:
            return self._of_part(files, "", None)
        rows: list[Row] = []
        for head in sorted(heads & SPLIT_FOLDERS.keys()):
            part = [file for file in files if file.below.startswith(f"{head}/")]
            rows += self._of_part(part, f"{head}/", SPLIT_FOLDERS[head])
        self.left_out["beside the folders of the splits"] += len(files) - len(rows)
        return rows

    def _of_part(self, files: list[ImageFile], prefix: str, split: str | None) -> list[Row]:
        """The rows of `files`, all of which lie below the folder `prefix`."""
        below = [file.below[len(prefix) :] for file in files]
        flat = [file.path for file, name in zip(files, below) if "/" not in name]
        if not flat:
            cameras = [re.search(CAMERA_BELOW, name.partition("/")[2].rpartition(".")[0]) for name in below]
            return [
                Row(file, name.partition("/")[0], camera and camera["camid"], split)
                for file, name, camera in zip(files, below, cameras)
            ]
        if len(flat) < len(files):
            raise DataError(
                f"{self.name}: {_first(flat)} lie beside folders with images; put each person's images into a folder, "
                "or set data.pattern (--pattern)"
            )
        for pattern in KNOWN_NAMES:
            found = [match for file in files if (match := re.match(pattern, file.stem))]
            if len(found) == len(files):
                return [Row(file, m["pid"], m.groupdict().get("camid"), split) for file, m in zip(files, found)]
        strange = [file.path for file in files if not any(re.match(pattern, file.stem) for pattern in KNOWN_NAMES)]
        raise DataError(
            f"{self.name}: {_first(strange or flat)} have names that tell no person the way the others do; known are "
            "one folder a person, 0002_c1s1_000451_03.jpg, 0000_000_01_0303morning_0008_0.jpg, 1_001_1_01.png and "
            r"001_01.tif; for other names set data.pattern (--pattern), e.g. '(?P<pid>\w+)-cam(?P<camid>\d+)'"
        )


def _by_pattern(name: str, pattern: str, files: list[ImageFile]) -> list[Row]:
    """The rows of `files` by a user's pattern. Raises ConfigError for one that is none, DataError for another path."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"data.pattern is {pattern!r}, no regular expression ({error})") from error
    strange = compiled.groupindex.keys() - set(GROUPS)
    if "pid" not in compiled.groupindex or strange:
        raise ConfigError(
            f"data.pattern is {pattern!r}; it must have the group (?P<pid>...), and may have (?P<camid>...) and "
            "(?P<split>...)" + (f", but it has {', '.join(sorted(strange))}" if strange else "")
        )
    found = [match for file in files if (match := compiled.search(file.below)) and match["pid"]]
    if len(found) < len(files):
        fitting = {match.string for match in found}
        without = [file.path for file in files if file.below not in fitting]
        raise DataError(f"{name}: {_first(without)} do not fit data.pattern {pattern!r}; rename or move them")
    rows = []
    for file, match in zip(files, found):
        assert match is not None  # `without` is empty
        groups = match.groupdict()
        rows.append(Row(file, groups["pid"], groups.get("camid"), _split(groups.get("split"), file.path, name)))
    return rows


class CsvImages(OwnImages):
    """`csv:FILE`: columns `path` (relative to the file's folder) and `pid`, and, if known, `camid` and `split`."""

    kind = "csv"

    def _locate(self) -> tuple[str, Layout]:
        self.file = self._located(os.path.isfile, "file")
        return os.path.dirname(self.file), Layout((), Part(""), Part(""))

    def _rows(self) -> list[Row]:
        if self.pattern:
            raise ConfigError(f"data.pattern is for folder:DIR; {self.name} has columns instead: leave it out")
        lines = self._lines()
        if not lines:
            raise DataError(f"{self.name}: {self.file} lists no images below its header; add lines path,pid")
        first: dict[str, int] = {}
        for number, line in lines:
            other = first.setdefault(line["path"], number)
            if other != number:
                raise DataError(f"{self.file}: lines {other} and {number} name the same image {line['path']}")
        rows = [self._row(number, line) for number, line in lines]
        missing = [f"{path} (line {first[path]})" for path, row in zip(first, rows) if row.file.size < 0]
        if missing:
            raise DataError(f"{self.file}: {_first(missing)} do not exist; paths are relative to the folder of the CSV")
        self.dataset_dir = os.path.commonpath([os.path.dirname(row.file.path) for row in rows])
        return rows

    def _lines(self) -> list[tuple[int, dict[str, str]]]:
        try:
            with open(self.file, encoding="utf-8-sig", newline="") as stream:
                reader = csv.DictReader(io.StringIO(stream.read(), newline=""), skipinitialspace=True, restval="")
                header = [(name or "").strip() for name in reader.fieldnames or ()]
                reader.fieldnames = header
                self._check_header(header)
                return [
                    (reader.line_num, {key: (line[key] or "").strip() for key in header if key})
                    for line in reader
                    if any(str(value).strip() for value in line.values())
                ]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{self.file} cannot be read as a CSV in UTF-8 ({error})") from error

    def _check_header(self, header: list[str]) -> None:
        lacking = [name for name in ("path", "pid") if name not in header]
        twice = sorted({name for name in header if header.count(name) > 1})
        if lacking or twice:
            what = f"lacks {' and '.join(lacking)}" if lacking else f"names {', '.join(twice)} twice"
            raise DataError(
                f"{self.file}: the header is {','.join(header)!r} and {what}; the first line names the columns path, "
                "pid and, if known, camid and split, with commas between them"
            )
        others = [name for name in header if name not in ("path", *GROUPS)]
        if others:
            warn_once(f"{self.name}: the columns {', '.join(others)} are not read, only path, {', '.join(GROUPS)}")

    def _row(self, number: int, line: dict[str, str]) -> Row:
        where = f"{self.file}, line {number}"
        for name in ("path", "pid"):
            if not line[name]:
                raise DataError(f"{where}: {name} is empty; fill it in")
        for name in ("camid", "split"):
            if name in line and not line[name]:
                raise DataError(f"{where}: {name} is empty; fill it in on all lines, or leave the column out")
        path = os.path.abspath(os.path.join(os.path.dirname(self.file), str(user_path(line["path"]))))
        if not path.lower().endswith(IMAGE_ENDINGS):
            raise DataError(f"{where}: {line['path']} is no image; images end in {', '.join(IMAGE_ENDINGS)}")
        size = os.path.getsize(path) if os.path.isfile(path) else -1
        file = ImageFile(path, line["path"], size)
        return Row(file, line["pid"], line.get("camid"), _split(line.get("split"), where, self.name))


KINDS: dict[str, type[OwnImages]] = {"folder": FolderImages, "csv": CsvImages}


def _split(text: str | None, where: str, name: str) -> str | None:
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


def _first(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
