"""A user's images as a data set: `folder:DIR`, `csv:FILE` and `coco:FILE` wherever a data set's name may stand."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable

from occplug.datasets.boxes import CAMERA, PERSON, Box, read_boxes, with_frames
from occplug.datasets.common import ReidDataset
from occplug.datasets.layouts import Layout, Part, inventory
from occplug.datasets.listing import IMAGE_ENDINGS, ImageFile, list_tree, real_paths
from occplug.datasets.own_images import (
    GALLERY_CAMERA,
    GROUPS,
    QUERY_CAMERA,
    SPLIT_FOLDERS,
    OwnImages,
    Row,
    first_names,
    split_of,
)
from occplug.datasets.tables import Line, path_in, read_table
from occplug.errors import ConfigError, DataError
from occplug.registry import DATASETS, get, names
from occplug.utils.files import is_text, user_path, write_atomically
from occplug.utils.logs import warn_once

__all__ = [
    "GALLERY_CAMERA",
    "QUERY_CAMERA",
    "BoxImages",
    "CsvImages",
    "FolderImages",
    "OwnImages",
    "dataset_class",
    "is_ours",
    "is_path",
    "is_same_place",
    "path_hint",
]

log = logging.getLogger(__name__)
# Names without folders, tried in this order; one must fit all images.
KNOWN_NAMES = (
    r"(?P<pid>-?\d+)_c(?P<camid>\d+)",  # 0002_c1s1_000451_03 (Market, Duke, Occluded-Duke, SynthOcc)
    r"(?P<pid>\d+)_\d+_(?P<camid>\d+)_\d{4}(?:morning|noon|afternoon)",  # 0000_000_01_0303morning_0008_0 (MSMT17)
    r"\d_(?P<pid>\d{3,})_(?P<camid>\d)_\d\d$",  # 1_001_1_01 (CUHK03)
    r"(?P<pid>-?\d+)(?:[_.]|$)",  # 001_01 (Occluded-REID, Partial-REID)
)
# Camera below a person's folder: 0001/0001_c1s1_000451_03, alice/cam2/7, alice/camera-2_7
CAMERA_BELOW = r"(?:^|[/_-])c(?:am(?:era)?)?[_-]?(?P<camid>\d+)(?=\D|$)"


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
        try:
            return get(DATASETS, name)
        except ConfigError as error:
            raise ConfigError(f"{error}{path_hint(name)}") from error
    if kind not in KINDS:
        known = ", ".join(f"{known}:PATH" for known in KINDS)
        raise ConfigError(f"{name}: data sets are not named by {kind!r}; there are: {known}")
    if not place:
        raise ConfigError(f"{name} has no path; write {name}PATH")
    return functools.partial(KINDS[kind], place)


def path_hint(name: str, root: str = "") -> str:
    """What a message about the unknown data set `name` ends with where a folder or file has that name, here or below
    `root`: how to name it."""
    path = str(user_path(name))
    for place in (path, os.path.join(root, path)):
        kind = "folder" if os.path.isdir(place) else _KIND_OF_FILE.get(os.path.splitext(place)[1].lower())
        if kind and os.path.exists(place):
            return f"; to take your own images at {name}, write {kind}:{name}"
    return ""


def is_same_place(name: str, other: str, root: str) -> bool:
    """Whether two data sets, named by path, are one folder or file, however their paths are spelled.

    Args:
        root: folder of data sets, below which paths are looked for that are not in the current one.
    """
    return is_path(name) and is_path(other) and _place(name, root) == _place(other, root)


def _place(name: str, root: str) -> str:
    path = str(user_path(name.partition(":")[2]))
    return os.path.realpath(path if os.path.exists(path) else os.path.join(user_path(root), path))


class FolderImages(OwnImages):
    """`folder:DIR`: one folder per person, or file names that hold the identity, or `pattern`.

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
                f"{self.name}: {first_names(flat)} lie beside folders with images; put each person's images into a "
                "folder, or set data.pattern (--pattern)"
            )
        for pattern in KNOWN_NAMES:
            matches = [match for file in files if (match := re.match(pattern, file.stem))]
            if len(matches) == len(files):
                return [Row(file, m["pid"], m.groupdict().get("camid"), split) for file, m in zip(files, matches)]
        strange = [file.path for file in files if not any(re.match(pattern, file.stem) for pattern in KNOWN_NAMES)]
        raise DataError(
            f"{self.name}: {first_names(strange or flat)} have names without an identity in a known form. Known are: "
            "one folder per person, 0002_c1s1_000451_03.jpg, 0000_000_01_0303morning_0008_0.jpg, 1_001_1_01.png and "
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
    matches = [match for file in files if (match := compiled.search(file.below)) and match["pid"]]
    if len(matches) < len(files):
        fitting = {match.string for match in matches}
        without = [file.path for file in files if file.below not in fitting]
        raise DataError(f"{name}: {first_names(without)} do not fit data.pattern {pattern!r}; rename or move them")
    rows = []
    for file, match in zip(files, matches):
        assert match is not None  # `without` is empty
        groups = match.groupdict()
        rows.append(Row(file, groups["pid"], groups.get("camid"), split_of(groups.get("split"), file.path, name)))
    return rows


_COLUMNS = {**dict.fromkeys(PERSON, "pid"), **dict.fromkeys(CAMERA, "camid")}  # columns of a CSV -> as rows call them


class CsvImages(OwnImages):
    """`csv:FILE`: columns `path` (relative to the file's folder) and `pid`, and, if known, `camid` and `split`.

    Columns may have the names that boxes in frames have: `person_id`, `camera` or `camera_id`.
    """

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
        rows = [self._row(number, line) for number, line in lines]
        first: dict[str, int] = {}
        for (number, line), path in zip(lines, real_paths([row.file.path for row in rows])):
            other = first.setdefault(path, number)
            if other != number:
                raise DataError(f"{self.file}: lines {other} and {number} name the same image {line['path']}; keep one")
        names = [line["path"] for _, line in lines]
        missing = [f"{name} (line {n})" for (n, _), name, row in zip(lines, names, rows) if row.file.size < 0]
        if missing:
            cure = "paths are relative to the folder of the CSV"
            cure += (
                "" if all(map(is_text, names)) else "; it is no CSV in UTF-8, so save it as one if names are misread"
            )
            raise DataError(f"{self.file}: {first_names(missing)} do not exist; {cure}")
        self.dataset_dir = os.path.commonpath([os.path.dirname(row.file.path) for row in rows])
        return rows

    def _lines(self) -> list[Line]:
        given, lines = read_table(self.file)
        names = {name: name if _COLUMNS.get(name) in given else _COLUMNS.get(name, name) for name in given}
        self._check_header([names[name] for name in given])
        return [(number, {names[name]: text for name, text in line.items()}) for number, line in lines]

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
            warn_once(log, f"{self.name}: the columns {', '.join(others)} are not read, only path, {', '.join(GROUPS)}")

    def _row(self, number: int, line: dict[str, str]) -> Row:
        where = f"{self.file}, line {number}"
        for name in ("path", "pid"):
            if not line[name]:
                raise DataError(f"{where}: {name} is empty; fill it in")
        for name in ("camid", "split"):
            if name in line and not line[name]:
                raise DataError(f"{where}: {name} is empty; fill it in on all lines, or leave the column out")
        path = path_in(self.file, line["path"])
        if not path.lower().endswith(IMAGE_ENDINGS):
            raise DataError(f"{where}: {line['path']} is no image; images end in {', '.join(IMAGE_ENDINGS)}")
        size = os.path.getsize(path) if os.path.isfile(path) else -1
        file = ImageFile(path, line["path"], size)
        return Row(file, line["pid"], line.get("camid"), split_of(line.get("split"), where, self.name))


class BoxImages(OwnImages):
    """`coco:FILE`: boxes of people in frames, as :mod:`occplug.datasets.boxes` reads them.

    The parts of the frames are cut out once, into the folder `FILE.crops` beside the file, as PNG.
    """

    kind = "coco"

    def _locate(self) -> tuple[str, Layout]:
        self.file = self._located(os.path.isfile, "file")
        return f"{self.file}.crops", Layout((), Part(""), Part(""))

    def _rows(self) -> list[Row]:
        if self.pattern:
            raise ConfigError(f"data.pattern is for folder:DIR; {self.name} has keys instead: leave it out")
        boxes, left_out = read_boxes(self.file)
        self.left_out += left_out
        nameless = [box.where for box in boxes if box.person is None]
        if nameless:
            raise DataError(f"{first_names(nameless)} has no person_id (or pid); name the person, or remove the box")
        files = _crops(boxes, self.dataset_dir)
        self._boxes = {file.path: box for box, file in zip(boxes, files)}
        return [
            Row(file, str(box.person), box.camera, split_of(box.split, f"{box.where}.split", self.name))
            for box, file in zip(boxes, files)
        ]

    def _described(self, file: ImageFile, start: str) -> str:
        """By its frame and box, the same wherever file and frames lie together and whenever they were copied there."""
        box = self._boxes[file.path]
        frame = os.path.relpath(box.frame, os.path.dirname(os.path.abspath(self.file)))
        return f"{frame} {box.corners} {os.path.getsize(box.frame)}"


def _crops(boxes: list[Box], folder: str) -> list[ImageFile]:
    """The parts of the frames as files of `folder`; those that are there already are not made again."""
    paths = [os.path.join(folder, _crop_name(box)) for box in boxes]
    missing = sum(not os.path.isfile(path) for path in paths)
    if missing:
        area = sum((b.corners[2] - b.corners[0]) * (b.corners[3] - b.corners[1]) for b in boxes) * missing / len(boxes)
        free = shutil.disk_usage(os.path.dirname(folder)).free
        if 3 * area > free:  # a PNG is seldom larger than its pixels
            raise DataError(
                f"{folder}: {missing:,} crops take up to {3 * area / 2**20:,.0f} MiB, and its disk has "
                f"{free / 2**20:,.0f} MiB left; make room, or list fewer boxes"
            )
    for path, (box, frame) in zip(paths, with_frames(boxes)):
        if os.path.isfile(path):
            frame.pass_over()
            continue
        crop = frame.cut(box)
        write_atomically(path, functools.partial(crop.save, format="PNG"))
    return [ImageFile(path, os.path.basename(path), os.path.getsize(path)) for path in paths]


def _crop_name(box: Box) -> str:
    """A name that changes with the frame and the box, so that edited boxes are cut again."""
    try:
        status = os.stat(box.frame)
    except OSError as error:
        raise DataError(f"{box.where}: the frame {box.frame} cannot be read ({error.strerror})") from error
    digest = hashlib.sha256(f"{box.name} {status.st_size} {status.st_mtime_ns}".encode(errors="surrogateescape"))
    return f"{os.path.basename(box.frame).rpartition('.')[0][:60]}-{digest.hexdigest()[:12]}.png"


_KIND_OF_FILE = {".csv": "csv", ".json": "coco"}
KINDS: dict[str, type[OwnImages]] = {"folder": FolderImages, "csv": CsvImages, "coco": BoxImages}
