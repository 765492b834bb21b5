"""Pairs of images that look the same, by the distance of perceptual hashes.

A hash has 256 bits in 16 words. Two hashes that differ in at most 15 bits have one word in common, so only images with
a common word are compared, and none of the near pairs is missed.

Measured on 128 images of SynthOcc tiny: reduced to 3/4 and compressed again (JPEG, quality 70) they differ from
themselves in at most 10 bits, reduced to half (quality 50) in 10 at the median and 20 at most; two different
images differ in 88 or more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import imagehash
import numpy as np
from PIL import Image

from occplug.errors import DataError

__all__ = ["MOST_BITS", "hash_of", "near_pairs"]

SIDE, WORDS = 16, 16
MOST_BITS = 15  # pairs that differ by more may have no word in common
_CHUNK = 1024


def hash_of(picture: Image.Image) -> np.ndarray:
    """[16] uint16: 256 signs of the lowest frequencies of `picture` (imagehash.phash)."""
    return np.packbits(imagehash.phash(picture, hash_size=SIDE).hash.ravel()).view(np.uint16)


def near_pairs(
    hashes: np.ndarray, matters: Callable[[np.ndarray, np.ndarray], np.ndarray], most: int = MOST_BITS
) -> list[tuple[int, int, int]]:
    """(first, second, bits that differ) of all pairs that differ in at most `most` bits, nearest first.

    Args:
        hashes: [N, 16] uint16.
        matters: which pairs are wanted: [n] first and [m] second indices -> [n, m] bool.
        most: at most 15.
    Raises: DataError for more.
    """
    if most > MOST_BITS:
        raise DataError(f"near images differ in at most {MOST_BITS} bits, not {most}")
    words = np.ascontiguousarray(hashes).view(np.uint64)  # [N, 4]
    distances: dict[tuple[int, int], int] = {}
    for word in range(WORDS):
        for group in _groups(hashes[:, word]):
            for start in range(0, len(group), _CHUNK):
                first = group[start : start + _CHUNK]
                second = group[start:]
                bits = np.bitwise_count(words[first, None] ^ words[None, second]).sum(2)  # [n, m]
                near = (bits <= most) & (first[:, None] < second[None]) & matters(first, second)
                for i, j in zip(*np.nonzero(near)):
                    distances[int(first[i]), int(second[j])] = int(bits[i, j])
    return sorted(((a, b, bits) for (a, b), bits in distances.items()), key=lambda pair: (pair[2], *pair[:2]))


def _groups(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Indices, ascending, of each key that several have."""
    order = np.argsort(keys, kind="stable")
    ends: np.ndarray = np.flatnonzero(np.diff(keys[order])) + 1
    for group in np.split(order, ends):
        if len(group) > 1:
            yield group
