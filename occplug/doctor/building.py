"""Occluded-Duke from DukeMTMC-reID: the authors publish name lists in place of images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from occplug.datasets.layouts import find_layout
from occplug.datasets.stock import DukeMTMCreID
from occplug.errors import DataError, OutputError
from occplug.utils.files import user_path, write_atomically
from occplug.utils.texts import read_text

__all__ = ["build_occluded_duke"]

# list file -> folder of its images, in both data sets; some queries were gallery images of DukeMTMC-reID
LISTS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
MOVED_FROM = "bounding_box_test"


def build_occluded_duke(duke: str, lists: str, out: str) -> Path:
    """Copy the images of DukeMTMC-reID as `train.list`, `query.list` and `gallery.list` say; returns the new folder.

    Args:
        duke: folder of DukeMTMC-reID, or one that holds it.
        lists: folder with the three lists, whose lines are file names.
        out: folder that will hold the new folder `Occluded_Duke`.

    Raises:
        DataError: no DukeMTMC-reID or lists there, or an image that is listed and missing.
        OutputError: the new folder exists, or the disk has no room.
    """
    source, _ = find_layout("dukemtmcreid", str(user_path(duke)), DukeMTMCreID.folders, DukeMTMCreID.layouts)
    target = user_path(out) / "Occluded_Duke"
    if target.exists():
        raise OutputError(f"{target} exists already; delete it, or name another folder")
    files = {split: _listed(user_path(lists) / f"{split}.list") for split in LISTS}
    sources = {split: [_source(source, LISTS[split], name) for name in names] for split, names in files.items()}
    missing = [name for split in LISTS for name, path in zip(files[split], sources[split]) if path is None]
    if missing:
        more = ", ..." if len(missing) > 5 else ""
        raise DataError(
            f"{source} lacks {len(missing)} images of the lists: {', '.join(missing[:5])}{more}; unpack DukeMTMC-reID "
            "again, whole"
        )

    def copy(folder: Path) -> None:
        for split, paths in sources.items():
            (folder / LISTS[split]).mkdir(parents=True)
            for path in filter(None, paths):
                shutil.copy(path, folder / LISTS[split])

    write_atomically(target, copy)
    return target


def _listed(file: Path) -> list[str]:
    if not file.is_file():
        raise DataError(
            f"{file} is missing; the authors of Occluded-Duke publish train.list, query.list and gallery.list with "
            "their code: name the folder that holds all three"
        )
    names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    strange = [name for name in names if os.path.basename(name) != name]
    if strange or not names:
        raise DataError(f"{file} is no list of file names ({strange[0] if strange else 'it is empty'}); fetch it again")
    return names


def _source(duke: str, folder: str, name: str) -> str | None:
    places = (os.path.join(duke, place, name) for place in (folder, MOVED_FROM))
    return next((path for path in places if os.path.isfile(path)), None)
