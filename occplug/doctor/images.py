"""What is wrong with the images and labels of a data set."""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from occplug.datasets.common import ReidDataset
from occplug.doctor.duplicates import hash_of, near_pairs
from occplug.errors import ConfigError, DataError
from occplug.utils.imagefile import original_message, read_image

__all__ = ["SHOWN", "Item", "examine", "items_of", "suspicious_labels"]

SHOWN = 10  # examples of each kind of finding
BLANK = 2.0  # standard deviation of grey values, of 255, below which a picture shows nothing
SMALL = 16  # pixels of the shorter side


class Item(NamedTuple):
    """An image of a data set.

    Args:
        side: train, query or gallery.
        person: its number; where training and test are numbered each for itself, of a pair with "train" or "test".
        camera: from 0, below it where unknown.
    """

    path: str
    side: str
    person: object
    camera: int


class _Picture(NamedTuple):
    damage: str = ""
    size: tuple[int, int] = (0, 0)
    spread: float = 0.0
    hash: np.ndarray = np.empty(0, bool)  # of a damaged one


def items_of(data: ReidDataset) -> list[Item]:
    """All images of `data`; an image of two sides once."""
    sides = {"train": data.train, "query": data.query, "gallery": data.gallery}
    items: dict[str, Item] = {}
    for side, rows in sides.items():
        for path, pid, camid, *_ in rows:
            number = data.pids[pid] if side == "train" else pid
            person = number if data.shared_ids else ("train" if side == "train" else "test", number)
            items.setdefault(path, Item(path, side, person, camid))
    return list(items.values())


def examine(data: ReidDataset, workers: int = 2) -> dict:
    """Findings on the images of `data`, all of which are read: counts, each with at most 10 examples.

    Args:
        workers: threads that read; 0: this one does.

    Raises:
        ConfigError: `workers` is below 0.

    Returns: `images`; `damaged`, `blank` and `small` with paths; `near_duplicates` of other identities and of training
        and test, with pairs of paths; `labels` as `suspicious_labels`.
    """
    items = items_of(data)
    pictures = _pictures([item.path for item in items], workers)
    hashes = {n: p.hash for n, p in enumerate(pictures) if p.hash is not None and p.spread >= BLANK}
    return {
        "images": len(items),
        "damaged": _found([p.damage for p in pictures if p.damage]),
        "blank": _found([i.path for i, p in zip(items, pictures) if not p.damage and p.spread < BLANK]),
        "small": _found([i.path for i, p in zip(items, pictures) if not p.damage and min(p.size) < SMALL]),
        "near_duplicates": _near([items[n] for n in hashes], list(hashes.values()), data._junk_pids),
        "labels": suspicious_labels(items, getattr(data, "has_cameras", True), data._junk_pids),
    }


def _pictures(paths: list[str], workers: int) -> list[_Picture]:
    if workers < 0:
        raise ConfigError(f"workers is {workers}; it must be at least 0")
    if workers == 0:
        return [_read(path) for path in paths]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_read, paths))


def _read(path: str) -> _Picture:
    try:
        picture = read_image(path)
    except DataError as error:
        return _Picture(original_message(error))
    return _Picture("", picture.size, float(np.asarray(picture.convert("L")).std()), hash_of(picture))


def _near(items: Sequence[Item], hashes: Sequence[np.ndarray], junk: Sequence[int]) -> dict:
    """Near pairs of two identities, and of training and test; near images of one person on one side are as expected."""
    numbers = {person: number for number, person in enumerate(sorted({item.person for item in items}, key=str))}
    person = np.array([numbers[item.person] for item in items], int)
    trains = np.array([item.side == "train" for item in items], bool)
    is_person = np.array([item.person not in junk for item in items], bool)

    def matters(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        other = (person[first, None] != person[None, second]) & is_person[first, None] & is_person[None, second]
        return other | (trains[first, None] != trains[None, second])

    pairs = near_pairs(np.array(hashes), matters) if len(items) > 1 else []
    crossing = [pair for pair in pairs if trains[pair[0]] != trains[pair[1]]]
    others = [pair for pair in pairs if person[pair[0]] != person[pair[1]]]
    return {
        name: _found([[items[a].path, items[b].path, bits] for a, b, bits in chosen])
        for name, chosen in (("other_persons", others), ("train_and_test", crossing))
    }


def suspicious_labels(items: Sequence[Item], has_cameras: bool, junk: Sequence[int] = ()) -> dict:
    """Identities with one image or one camera, queries without a match, an identity with a tenth of all images
    (of ten identities or more).
    """
    images: collections.Counter = collections.Counter()
    cameras, gallery = collections.defaultdict(set), collections.defaultdict(set)
    for item in items:
        if item.person not in junk:
            images[item.person] += 1
            cameras[item.person].add(item.camera)
        if item.side == "gallery":
            gallery[item.person].add(item.camera)
    lost = [item.path for item in items if item.side == "query" and not gallery[item.person] - {item.camera}]
    alone = [p for p, of_pid in cameras.items() if len(of_pid) == 1 and images[p] > 1] if has_cameras else []
    large = [p for p, count in images.items() if len(images) >= 10 and 10 * count > len(items)]
    suspicious = {
        "persons_with_one_image": sorted((p for p, count in images.items() if count == 1), key=str),
        "persons_in_one_camera": sorted(alone, key=str),
        "persons_with_a_tenth_of_all_images": sorted(large, key=str),
        "queries_without_a_match": [os.fspath(path) for path in lost],
    }
    return {name: _found(values) for name, values in suspicious.items()}


def _found(values: list) -> dict:
    return {"count": len(values), "first": values[:SHOWN]}
