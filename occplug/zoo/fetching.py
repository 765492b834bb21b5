"""The weight file of a zoo entry, on this machine and checked."""

from __future__ import annotations

import hashlib
import logging
import os
import urllib.parse
from pathlib import Path, PurePosixPath

from occplug.errors import CheckpointError, ConfigError
from occplug.utils.download import download
from occplug.utils.files import file_sha256, user_path, write_atomically
from occplug.zoo.index import Checkpoint, Entry, Index

__all__ = ["CACHE_VARIABLE", "cache_folder", "cached_file", "fetch"]

_log = logging.getLogger(__name__)
CACHE_VARIABLE = "OCCPLUG_ZOO"


def cache_folder() -> Path:
    """Where downloads are kept: `$OCCPLUG_ZOO`, else `occplug/zoo` in the user's cache folder."""
    if os.environ.get(CACHE_VARIABLE):
        return user_path(os.environ[CACHE_VARIABLE])
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "occplug" / "zoo"


def cached_file(entry: Entry) -> Path:
    """Where the download of `entry` lies, or would lie; another file has another name, whichever index it is of."""
    point = entry.checkpoint
    assert point is not None, f"{entry.name} has no weights"
    key = point.sha256 or hashlib.sha256((point.url or point.drive or "").encode()).hexdigest()
    suffix = PurePosixPath(point.file or urllib.parse.urlsplit(point.url or "").path).suffix or ".pth"
    return cache_folder() / f"{entry.name}-{key[:12]}{suffix}"


def fetch(index: Index, entry: Entry, **options) -> Path:
    """The checked weight file of `entry`; downloaded at the first call.

    Where the index does not know the checksum, the first download's is kept beside the file and demanded ever after.

    Args:
        options: of :func:`occplug.utils.download.download`.

    Raises:
        ConfigError: the entry has no weights.
        CheckpointError: not on this machine and not to be had, or not the file the index means. An installed package
            carries few of the repository's own files; the message says where the others are.
    """
    point = entry.checkpoint
    if point is None:
        raise ConfigError(
            f"the zoo's {entry.name} has no weights: train it with occplug train --config-file {entry.config}, or "
            "give --weights a file"
        )
    path = cached_file(entry)
    if point.file is not None:
        checkout_file = _in_a_checkout(index, point)
        if checkout_file is not None:
            _demand(checkout_file, point.sha256, "the index and the file do not belong together; restore both from git")
            return checkout_file
        if not path.is_file() and point.url is None and point.drive is None:
            raise CheckpointError(_not_here(index, entry, path))
    try:
        return _cached(path, point, options)
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or path} cannot be read or written ({error.strerror or error}); put that right, or set "
            f"${CACHE_VARIABLE} to another folder for the zoo's downloads"
        ) from error


def _in_a_checkout(index: Index, point: Checkpoint) -> Path | None:
    """The file of `point` beside the index, or in the checkout that is the working folder; None if in neither."""
    assert point.file is not None
    places = (index.file.parent / point.file, Path("occplug/zoo") / point.file)
    return next((place for place in places if place.is_file()), None)


def _not_here(index: Index, entry: Entry, path: Path) -> str:
    """Why the weights of `entry` are missing from an installed package, and three ways to them."""
    point = entry.checkpoint
    assert point is not None
    files = {other.name: index.path_of(other) for other in index.entries.values()}
    here = [f"zoo://{name}" for name, file in files.items() if file is not None and file.is_file()]
    return (
        f"the weights of zoo://{entry.name} ({(point.size or 0) / 1e6:.1f} MB) are not part of the installed package, "
        f"which brings those of {', '.join(here) or 'no entry'}. Give the command in a checkout of occplug, or copy "
        f"occplug/zoo/{point.file} of a checkout to {path}, or train them: occplug train --config-file {entry.config}"
    )


def _cached(path: Path, point: Checkpoint, options: dict) -> Path:
    """`path` with the file of `point` in it; :func:`fetch` without what can go wrong on the disk."""
    known = path.with_name(f"{path.name}.sha256")
    if not path.is_file():
        known.unlink(missing_ok=True)
        download(path, point.url, point.drive, sha256=point.sha256, size=point.size, **options)
    digest = point.sha256 or (known.read_text().strip() if known.is_file() else None)
    digest_there = _demand(path, digest, "delete it, and it is downloaded again")
    if point.sha256 is None and not known.is_file():
        _log.warning("%s: the index knows no checksum; from now on it must keep its sha256 %s", path, digest_there)
        write_atomically(known, lambda temporary: temporary.write_text(f"{digest_there}\n"))
    return path


def _demand(path: Path, sha256: str | None, cure: str) -> str:
    digest = file_sha256(path)
    if sha256 is not None and digest != sha256:
        raise CheckpointError(f"{path}: its sha256 is {digest}, expected {sha256}; {cure}")
    return digest
