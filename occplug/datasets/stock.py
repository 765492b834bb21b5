"""torchreid's Market-1501, DukeMTMC-reID and MSMT17 under our rules: sorted labels, checks, no unasked download."""

from __future__ import annotations

import os

from occplug.datasets.common import MARKET_LAYOUT, MOST_PERSONS, Counts, Labelled, ReidDataset
from occplug.datasets.layouts import Layout, Part
from occplug.datasets.listing import ImageFile, list_images
from occplug.errors import DataError
from occplug.registry import DATASETS
from occplug.torchreid_host import stock_dataset

__all__ = ["MSMT17", "DukeMTMCreID", "Market1501"]


@DATASETS.register_module("market1501")
class Market1501(ReidDataset, stock_dataset("market1501")):  # type: ignore[misc]  # a class of torchreid, looked up by name
    """Market-1501 (Zheng et al., ICCV 2015).

    Args:
        market1501_500k: add the 500,000 distractors in `images` to the gallery. `use_500k_distractors` is the same.
    """

    name = "market1501"
    folders = ("market1501", "Market-1501-v15.09.15", "Market-1501", "market")
    layouts = (MARKET_LAYOUT,)
    dataset_url = None
    published = {
        "train": Counts(images=12936, ids=751, cameras=6),
        "query": Counts(images=3368, ids=750, cameras=6),
        "gallery": Counts(images=15913, ids=750, cameras=6),
    }

    def __init__(self, root: str = "", market1501_500k: bool = False, use_500k_distractors: bool = False, **options):
        self.market1501_500k = market1501_500k or use_500k_distractors
        if self.market1501_500k:
            self.published = {**self.published, "gallery": Counts(ids=750, cameras=6)}
        super().__init__(root, **options)

    def _parts(self, layout: Layout) -> dict[str, tuple[Part, ...]]:
        parts = super()._parts(layout)
        if self.market1501_500k:
            folder = os.path.join(self.dataset_dir, "images")
            if not os.path.isdir(folder):
                raise DataError(f"market1501: {folder} is missing; unpack the 500,000 distractors into it")
            parts["gallery"] += (Part("images"),)
        return parts


@DATASETS.register_module("dukemtmcreid")
class DukeMTMCreID(ReidDataset, stock_dataset("dukemtmcreid")):  # type: ignore[misc]  # a class of torchreid, looked up by name
    """DukeMTMC-reID (Ristani et al., ECCVW 2016; Zheng et al., ICCV 2017)."""

    name = "dukemtmcreid"
    folders = ("dukemtmc-reid", "DukeMTMC-reID", "DukeMTMC", "duke")
    layouts = (MARKET_LAYOUT,)
    dataset_url = None
    published = {
        "train": Counts(images=16522, ids=702, cameras=8),
        "query": Counts(images=2228, ids=702, cameras=8),
        "gallery": Counts(images=17661, ids=1110, cameras=8),
    }


@DATASETS.register_module("msmt17")
class MSMT17(ReidDataset, stock_dataset("msmt17")):  # type: ignore[misc]  # a class of torchreid, looked up by name
    """MSMT17 (Wei et al., CVPR 2018), version 1, or 2 with blurred faces; splits are the list files beside the images.

    Training images are those of `list_train.txt` and `list_val.txt`, 32,621 in all, as in published results;
    torchreid's class leaves the second list out. The test lists number identities from 0 again, so a number in both
    training and test is no mistake. Lists name camera 1 to 15 as the third field of a file name.
    """

    name = "msmt17"
    folders = ("msmt17", "MSMT17_V1", "MSMT17_V2")
    layouts = tuple(
        Layout((Part(train, nested=True),), Part(test, nested=True), Part(test, nested=True))
        for train, test in (("train", "test"), ("mask_train_v2", "mask_test_v2"), ("mask_train_V2", "mask_test_V2"))
    )
    pattern = r"(?P<pid>\d+)_\d+_(?P<camera>\d+)_"
    dataset_url = None
    published = {
        "train": Counts(images=32621, ids=1041, cameras=15),
        "query": Counts(images=11659, ids=3060, cameras=15),
        "gallery": Counts(images=82161, ids=3060, cameras=15),
    }
    shared_ids = False
    _junk_pids = []

    def _read(self, layout: Layout) -> dict[str, list[Labelled]]:
        train = layout.train[0]
        return {
            "train": self._listed("list_train.txt", train) + self._listed("list_val.txt", train),
            "query": self._listed("list_query.txt", layout.query),
            "gallery": self._listed("list_gallery.txt", layout.gallery),
        }

    def _listed(self, name: str, part: Part) -> list[Labelled]:
        """The images of list file `name`, whose lines are `path pid`, paths below the folder of `part`."""
        path = os.path.join(self.dataset_dir, name)
        on_disk = {file.below: file for file in list_images(os.path.join(self.dataset_dir, part.folder), part.nested)}
        images = [self._line(path, number, line, on_disk, part) for number, line in _lines(path)]
        if not images:
            raise DataError(f"msmt17: {path} lists no images; unpack the data set again")
        return images

    def _line(self, path: str, number: int, line: str, on_disk: dict[str, ImageFile], part: Part) -> Labelled:
        below, _, pid = line.replace("\\", "/").rpartition(" ")
        if not below or not pid.isdecimal():
            raise DataError(f"msmt17: line {number} of {path} is {line!r}, not a path and a person number")
        if below not in on_disk:
            missing = os.path.join(self.dataset_dir, part.folder, below)
            raise DataError(f"msmt17: {path} lists {missing}, which is missing; unpack the data set again")
        return Labelled(
            on_disk[below],
            self._number(pid, "person", MOST_PERSONS, on_disk[below]),
            self._parse(on_disk[below], part).camid,
        )


def _lines(path: str) -> list[tuple[int, str]]:
    """Numbered lines of the list file `path`, without empty ones."""
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as stream:  # Windows' editors mark UTF-8
            lines = [line.strip() for line in stream]
    except FileNotFoundError:
        raise DataError(f"msmt17: {path} is missing; it comes with the data set, beside the images' folders") from None
    return [(number, line) for number, line in enumerate(lines, 1) if line]
