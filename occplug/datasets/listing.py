"""Image files of a folder, listed once: torchreid builds each data set three times."""

from __future__ import annotations

import os
from typing import NamedTuple

from occplug.errors import DataError

__all__ = ["IMAGE_ENDINGS", "ImageFile", "list_images"]

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".ppm", ".webp")


class ImageFile(NamedTuple):
    """One image: its `path`, its path `below` the listed folder (with `/`), its `size` in bytes."""

    path: str
    below: str
    size: int

    @property
    def stem(self) -> str:
        """The file's name without its last ending."""
        return self.below.rpartition("/")[2].rpartition(".")[0]


class _Listing(NamedTuple):
    times: dict[str, int]  # visited folder -> time of its last change, ns
    files: list[ImageFile]


_listings: dict[tuple[str, bool], _Listing] = {}


def list_images(folder: str, nested: bool = False) -> list[ImageFile]:
    """The images of `folder` (`nested`: of its subfolders too), sorted; other and hidden files are passed over.

    The list of the last call is given again unless a folder has changed since.

    Raises:
        DataError: the folder cannot be read, or two files have the same name but for their folder or ending.
    """
    known = _listings.get((folder, nested))
    if known is None or any(_time(path) != time for path, time in known.times.items()):
        try:
            known = _scan(folder, nested)
        except OSError as error:
            raise DataError(f"{error.filename or folder} cannot be read ({error.strerror or error})") from error
        _listings[folder, nested] = known
    return known.files


def _time(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return -1


def _scan(folder: str, nested: bool) -> _Listing:
    times, files = {}, []
    waiting = [("", folder)]
    for below, path in waiting:
        times[path] = _time(path)
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.name.lower().endswith(IMAGE_ENDINGS) and entry.is_file():
                    files.append(ImageFile(entry.path, below + entry.name, entry.stat().st_size))
                elif nested and not below and entry.is_dir():
                    waiting.append((f"{entry.name}/", entry.path))
    files.sort(key=lambda file: file.below)
    _refuse_duplicates(files)
    return _Listing(times, files)


def _refuse_duplicates(files: list[ImageFile]) -> None:
    first: dict[str, ImageFile] = {}
    for file in files:
        other = first.setdefault(file.stem, file)
        if other is not file:
            raise DataError(f"{other.path} and {file.path} have the same name; delete or rename one of them")
