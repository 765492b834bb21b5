"""Which objects of a photograph make good occluders (the numbers are ours, after Sarandi's synthetic occlusion)."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from occplug.occluders.categories import Category

__all__ = ["Candidate", "largest", "reason_against"]

SHORTEST_SIDE, SMALLEST_AREA = 48, 64**2  # pixels
MOST_ASPECT = 5  # of width to height, or of height to width
PER_CATEGORY = 200
STANDING = ("bottom", "stand", "side")  # anchors of things that may be cut by the lower border of the photograph


@dataclass(frozen=True)
class Candidate:
    """An object in a photograph.

    Args:
        category: its name.
        image: what the photograph is known by.
        box: (left, top, right, bottom) in pixels, right and bottom exclusive.
        area: of its mask, in pixels.
        shape: whatever its mask is made from.
        note: goes to the index as `source`.
    """

    category: str
    image: str
    box: tuple[int, int, int, int]
    area: float
    shape: Any
    note: dict = field(default_factory=dict)


def reason_against(candidate: Candidate, size: tuple[int, int], table: Mapping[str, Category]) -> str | None:
    """Why the object in a photograph of `size` (width, height) is not taken, in a few words; None if it is."""
    left, top, right, bottom = candidate.box
    width, height = right - left, bottom - top
    category = table[candidate.category]
    if min(width, height) < SHORTEST_SIDE or candidate.area < SMALLEST_AREA:
        return "too small"
    if max(width, height) > MOST_ASPECT * min(width, height):
        return "too long or too thin"
    cut_below = bottom >= size[1] - 1 and category.anchor not in STANDING
    if left <= 1 or top <= 1 or right >= size[0] - 1 or cut_below:
        return "cut by the border of the image"
    if candidate.area < category.min_alpha * width * height:
        return "fills too little of its box"
    return None


def largest(candidates: Iterable[Candidate], per_category: int = PER_CATEGORY) -> list[Candidate]:
    """The `per_category` largest of each category, by image, so that every image is read once."""
    groups = collections.defaultdict(list)
    for candidate in candidates:
        groups[candidate.category].append(candidate)
    kept = [
        c for group in groups.values() for c in sorted(group, key=lambda c: (-c.area, c.image, c.box))[:per_category]
    ]
    return sorted(kept, key=lambda c: (c.image, c.box))


def cut(picture: np.ndarray, mask: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """uint8 [H, W, 3] and mask uint8 [H, W], 255 inside -> RGBA uint8 of the box."""
    left, top, right, bottom = box
    return np.dstack([picture[top:bottom, left:right], mask[top:bottom, left:right]])
