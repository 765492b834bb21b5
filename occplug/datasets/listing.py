"""Image files of a folder, listed once: torchreid builds each data set three times."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable
from typing import NamedTuple

from occplug.errors import DataError

__all__ = ["IMAGE_ENDINGS", "ImageFile", "list_images", "list_tree", "passed_over", "real_paths"]

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".webp")


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
    passed_over: collections.Counter  # why files are no images of the set -> how many


_listings: dict[tuple[str, bool, bool], _Listing] = {}


def list_images(folder: str, nested: bool = False) -> list[ImageFile]:
    """The images of `folder` (`nested`: of its subfolders too), sorted; other and hidden files are passed over.

    The list of the last call is given again unless a folder has changed since.

    Raises:
        DataError: the folder cannot be read, an image is a link to nothing, or two files have the same name but for
            their folder or ending.
    """
    return _listing(folder, nested).files


def passed_over(folder: str, nested: bool = False) -> collections.Counter:
    """Reason -> number of the files that `list_images` passes over, hidden ones aside. Raises as it does."""
    return _listing(folder, nested).passed_over


def list_tree(folder: str) -> tuple[list[ImageFile], collections.Counter]:
    """The images of `folder` and all folders below it, sorted, and why other files are none -> how many.

    Files of different folders may have the same name. Raises DataError as `list_images`.
    """
    listing = _listing(folder, True, True)
    return listing.files, listing.passed_over


def real_paths(paths: Iterable[str]) -> list[str]:
    """Where each of `paths` leads once `..` and links are followed; two names of one file give the same."""
    folders: dict[str, str] = {}
    result = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = os.path.join(folders[folder], name)
        result.append(os.path.realpath(path) if os.path.islink(path) else path)
    return result


def _listing(folder: str, nested: bool, deep: bool = False) -> _Listing:
    known = _listings.get((folder, nested, deep))
    if known is None or any(_time(path) != time for path, time in known.times.items()):
        try:
            known = _scan(folder, nested, deep)
        except OSError as error:
            raise DataError(f"{error.filename or folder} cannot be read ({error.strerror or error})") from error
        _listings[folder, nested, deep] = known
    return known


def _time(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        return -1


def _scan(folder: str, nested: bool, deep: bool) -> _Listing:
    times, files = {}, []
    others: collections.Counter = collections.Counter()
    waiting, visited = [("", folder)], set()
    for below, path in waiting:
        real = os.path.realpath(path)
        if real in visited:  # a link to a folder above
            continue
        visited.add(real)
        times[path] = _time(path)
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                is_image = entry.name.lower().endswith(IMAGE_ENDINGS)
                if is_image and entry.is_file():
                    files.append(ImageFile(entry.path, below + entry.name, entry.stat().st_size))
                elif is_image and entry.is_symlink() and not os.path.exists(entry.path):
                    raise DataError(f"{entry.path} is a link to a file that does not exist; restore or delete it")
                elif (deep or (nested and not below)) and entry.is_dir():
                    waiting.append((f"{below}{entry.name}/", entry.path))
                else:
                    others[_reason(entry)] += 1
    files.sort(key=lambda file: file.below)
    if not deep:
        _refuse_duplicates(files)
    return _Listing(times, files, others)


def _reason(entry: os.DirEntry) -> str:
    if entry.is_dir():
        return "folder inside"
    return f"ending {os.path.splitext(entry.name)[1].lower() or 'none'}"


def _refuse_duplicates(files: list[ImageFile]) -> None:
    first: dict[str, ImageFile] = {}
    for file in files:
        other = first.setdefault(file.stem, file)
        if other is not file:
            raise DataError(f"{other.path} and {file.path} have the same name; delete or rename one of them")
