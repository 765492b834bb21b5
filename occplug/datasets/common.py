"""What all data sets share: finding, parsing, checks against the published counts, labels, fingerprint."""

from __future__ import annotations

import collections
import hashlib
import logging
import os
import re
from typing import ClassVar, NamedTuple

from occplug.datasets.layouts import Layout, Part, find_layout, inventory
from occplug.datasets.listing import ImageFile, list_images, passed_over
from occplug.errors import ConfigError, DataError
from occplug.torchreid_host import ImageDataset
from occplug.utils.files import user_path
from occplug.utils.logs import warn_once

__all__ = ["Counts", "FOLDER_CAMERAS", "MARKET_LAYOUT", "MARKET_NAME", "ReidDataset"]

log = logging.getLogger(__name__)

# 0002_c1s1_000451_03.jpg (Market), 0001_c2_f0046182.jpg (Duke), 0001_c1_f0000001.jpg (SynthOcc)
MARKET_NAME = r"(?P<pid>-?\d+)_c(?P<camera>\d+)"
# 001_01.tif, 001_001.jpg, 1.jpg, or a name as above
FOLDER_CAMERAS = r"(?P<pid>-?\d+)(?:_c(?P<camera>\d+)|[_.]|$)"
MARKET_LAYOUT = Layout((Part("bounding_box_train"),), Part("query"), Part("bounding_box_test"))

_FOR_TORCHREID = {"transform", "k_tfm", "mode", "combineall", "verbose"}
_OF_OTHER_SETS = {"split_id", "cuhk03_labeled", "cuhk03_classic_split", "market1501_500k"}  # torchreid gives all to all


# Numbers from these on are refused: identities are 64-bit integers, and an embedding may have a row for each camera.
MOST_PERSONS, MOST_CAMERAS = 2**31, 10_000


class Counts(NamedTuple):
    """Published size of a split; None is not checked."""

    images: int | None = None
    ids: int | None = None
    cameras: int | None = None


class Labelled(NamedTuple):
    """An image with its raw person number and its camera (0-based)."""

    file: ImageFile
    pid: int
    camid: int


class ReidDataset(ImageDataset):
    """A data set of person images; subclasses say in class attributes how it lies on disk.

    Items are `(path, pid, camid, 0)`: training pids are labels 0..N-1 over the sorted person numbers, query and gallery
    pids are the person numbers; cameras are 0-based; images numbered -1 (junk) are left out. A set without training
    images works as a target and is refused as a source.

    Class attributes:
        cameras_of: data set whose cameras these are, or stand for in published recipes; empty: they are its own.

    Attributes:
        pids: label -> person number, training split.
        cameras: camid -> camera number, training split.
        differences: split -> in which counts it is not as published.
        left_out: why a file below the data set's folders is no image of it -> how many.
        fingerprint: sha256 over the names and sizes of all images.
    Args:
        root: folder that holds the data set's folder, or is it.
        options: torchreid's (`transform`, `mode`, ...); those meant for other sets are passed over.
    Raises:
        DataError: missing, empty, laid out otherwise, a file name that cannot be read, two files of one name, or
            identities in both training and test. Other counts than the published ones are a warning in the log.
        ConfigError: an option that nobody knows.
    """

    name: ClassVar[str]
    folders: ClassVar[tuple[str, ...]]
    layouts: ClassVar[tuple[Layout, ...]] = (MARKET_LAYOUT,)
    pattern: ClassVar[str] = MARKET_NAME  # matched at the start of a file name without its ending
    published: dict[str, Counts] = {}
    cameras_of: ClassVar[str] = ""
    shared_ids: ClassVar[bool] = True  # one numbering of identities for training and test
    shared_cure: ClassVar[str] = "unpack the data set again"  # where identities are in both
    _junk_pids = [0, -1]  # torchreid's: no person, in the gallery only

    def __init__(self, root: str = "", **options):
        options = self._known(options)
        self.root = os.path.abspath(user_path(root))
        self.dataset_dir, layout = self._locate()
        self.left_out: collections.Counter = collections.Counter()
        splits = self._read(layout)
        self._check(splits)
        self.fingerprint = self._fingerprint(splits)
        train, query, gallery = splits["train"], splits["query"], splits["gallery"]
        self.pids = sorted({image.pid for image in train})
        self.cameras = list(range(1, 2 + max((image.camid for image in train), default=-1)))
        label = {pid: number for number, pid in enumerate(self.pids)}
        items = [(image.file.path, label[image.pid], image.camid) for image in train]
        self._start(items, _items(query), _items(gallery), options)

    def _known(self, options: dict) -> dict:
        unknown = options.keys() - _FOR_TORCHREID - _OF_OTHER_SETS
        if unknown:
            raise ConfigError(f"the data set {self.name} has no option {', '.join(sorted(unknown))}")
        return {key: value for key, value in options.items() if key in _FOR_TORCHREID}

    def _start(self, train: list, query: list, gallery: list, options: dict) -> None:
        """Hand the lists to torchreid; it reads element 0 of each, so in place of no training images it gets others."""
        if train:
            ImageDataset.__init__(self, train, query, gallery, **options)
            return
        if options.get("mode") == "train":
            raise DataError(
                f"{self.name} has no training images: train on another set (data.sources: [market1501], or "
                f"-s market1501) and keep {self.name} in data.targets"
            )
        quiet = {"mode": "query", **options, "combineall": False, "verbose": False}
        ImageDataset.__init__(self, query, query, gallery, **quiet)
        self.train: list[tuple] = []
        self.num_train_pids = self.num_train_cams = self.num_datasets = 0
        if options.get("verbose", True):
            self.show_summary()

    # ---- reading

    def _locate(self) -> tuple[str, Layout]:
        return find_layout(self.name, self.root, self.folders, self.layouts)

    def _parts(self, layout: Layout) -> dict[str, tuple[Part, ...]]:
        return {"train": layout.train, "query": (layout.query,), "gallery": (layout.gallery,)}

    def _read(self, layout: Layout) -> dict[str, list[Labelled]]:
        parts = self._parts(layout)
        return {split: [image for part in parts[split] for image in self._images(part)] for split in parts}

    def _images(self, part: Part) -> list[Labelled]:
        folder = os.path.join(self.dataset_dir, part.folder)
        every = [self._parse(file, part) for file in list_images(folder, part.nested)]
        images = [image for image in every if image.pid != -1]
        self.left_out += passed_over(folder, part.nested)
        self.left_out["junk (person -1)"] += len(every) - len(images)
        if not images:
            accepted = " or ".join(f"{self.folders[0]}/{layout}" for layout in self.layouts)
            raise DataError(
                f"{self.name}: {folder} has no images, it holds {inventory(folder)}; "
                f"fill it with the images of the data set; accepted layouts: {accepted}"
            )
        return images

    def _parse(self, file: ImageFile, part: Part) -> Labelled:
        match = re.match(self.pattern, file.stem)
        camid = None if match is None else self._camera(match, part)
        if camid is None or camid < 0:
            raise DataError(
                f"{self.name}: {file.path} has a name without an identity and a camera (1, 2, ...); it must "
                f"match {self.pattern}; rename it, or move it elsewhere"
            )
        assert match is not None  # or it would have no camera
        return Labelled(file, self._number(match["pid"], "person", MOST_PERSONS, file), camid)

    def _number(self, digits: str, what: str, most: int, file: ImageFile) -> int:
        if len(digits) > 18 or int(digits) >= most:
            raise DataError(
                f"{self.name}: {file.path} names the {what} {digits}, and numbers below {most:,} are read; rename it, "
                "or move it elsewhere"
            )
        return int(digits)

    def _camera(self, match: re.Match, part: Part) -> int | None:
        named = match["camera"]
        if named is None:
            return part.camera
        if len(named) > 18 or int(named) > MOST_CAMERAS:
            raise DataError(f"{self.name}: camera {named} of {part.folder}; cameras up to {MOST_CAMERAS:,} are read")
        return int(named) - 1

    # ---- checks

    def _check(self, splits: dict[str, list[Labelled]]) -> None:
        self.differences: dict[str, list[str]] = {}
        if self.shared_ids:
            self._refuse_shared_ids(splits)
        for split, images in splits.items():
            differences = _differences(images, self.published.get(split, Counts()), self._junk_pids)
            if differences:
                self.differences[split] = differences
                what = f"{self.name}: the {split} split in {self.dataset_dir} is not as published"
                warn_once(log, f"{what}: {', '.join(differences)}")

    def _refuse_shared_ids(self, splits: dict[str, list[Labelled]]) -> None:
        train = {image.pid for image in splits["train"]} - set(self._junk_pids)
        for split in ("query", "gallery"):
            shared = sorted(train & {image.pid for image in splits[split]})
            if shared:
                first = ", ".join(map(str, shared[:5])) + (", ..." if len(shared) > 5 else "")
                raise DataError(
                    f"{self.name}: {len(shared)} person{'s'[: len(shared) > 1]} in both the train and the {split} "
                    f"split of {self.dataset_dir}: {first}; {self.shared_cure}"
                )

    def _fingerprint(self, splits: dict[str, list[Labelled]]) -> str:
        digest, start = hashlib.sha256(), len(os.path.join(self.dataset_dir, ""))
        for split, images in splits.items():
            lines = sorted(f"{image.file.path[start:]} {image.file.size}\n" for image in images)
            digest.update(f"{split}\n{''.join(lines)}".replace(os.sep, "/").encode(errors="surrogateescape"))
        return digest.hexdigest()

    def combine_all(self) -> None:
        """torchreid's `combineall`: query and gallery become training images too; new labels over sorted numbers."""
        test = self.query + self.gallery
        added = sorted({pid for _, pid, *_ in test} - set(self._junk_pids))
        label = {pid: self.num_train_pids + number for number, pid in enumerate(added)}
        self.train = self.train + [(path, label[pid], *rest) for path, pid, *rest in test if pid in label]
        self.pids = self.pids + added
        self.cameras = list(range(1, 2 + max(camid for _, _, camid, *_ in self.train)))
        self.num_train_pids = self.get_num_pids(self.train)
        self.num_train_cams = self.get_num_cams(self.train)


def _items(images: list[Labelled]) -> list[tuple[str, int, int]]:
    return [(image.file.path, image.pid, image.camid) for image in images]


def _differences(images: list[Labelled], published: Counts, junk: list[int]) -> list[str]:
    ids = {image.pid for image in images} - set(junk)
    counted = Counts(len(images), len(ids), len({image.camid for image in images}))
    rows = zip(Counts._fields, counted, published)
    return [f"{count} {what}, not {wanted}" for what, count, wanted in rows if wanted not in (None, count)]
