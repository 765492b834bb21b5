"""Codes of the part map, and the groupings of parts that methods use."""

from __future__ import annotations

import numpy as np

__all__ = ["CODES", "GROUPS", "group_parts", "part_visibility"]

CODES = {
    name: code
    for code, name in enumerate((
        "background", "head", "upper_torso", "lower_torso", "left_upper_arm", "right_upper_arm", "left_forearm",
        "right_forearm", "left_thigh", "right_thigh", "left_shank", "right_shank", "left_foot", "right_foot", "carried",
        "skirt",
    ))
}  # fmt: skip

# grouping -> group -> codes. In `eight`, the skirt or coat tail (15) is split between the legs by `group_parts`.
GROUPS: dict[str, dict[str, tuple[int, ...]]] = {
    "eight": {
        "head": (1,), "left_arm": (4, 6), "right_arm": (5, 7), "torso": (2, 3, 14),
        "left_leg": (8, 10), "right_leg": (9, 11), "left_foot": (12,), "right_foot": (13,),
    },
    "five_v": {
        "head": (1,), "upper_torso": (2, 4, 5), "lower_torso": (3, 6, 7, 14), "legs": (8, 9, 10, 11, 15),
        "feet": (12, 13),
    },
    "four_v": {
        "head": (1,), "arms_torso": (2, 3, 4, 5, 6, 7, 14), "legs": (8, 9, 10, 11, 15), "feet": (12, 13),
    },
    "three_v": {"head": (1,), "arms_torso": (2, 3, 4, 5, 6, 7, 14), "legs": (8, 9, 10, 11, 12, 13, 15)},
    "two_v": {"head_arms_torso": (1, 2, 3, 4, 5, 6, 7, 14), "legs": (8, 9, 10, 11, 12, 13, 15)},
    "one": {"person": tuple(range(1, 16))},
}  # fmt: skip


def group_parts(parts: np.ndarray, grouping: str) -> np.ndarray:
    """Group numbers: 0 background, 1, 2, ... in the order of `GROUPS[grouping]`.

    Args:
        parts: uint8 [H, W], codes of `CODES`.
        grouping: a key of `GROUPS`.
    Returns:
        uint8 [H, W].
    """
    table = np.zeros(16, np.uint8)
    for number, codes in enumerate(GROUPS[grouping].values(), start=1):
        table[list(codes)] = number
    grouped = table[parts]
    if grouping == "eight" and (parts == CODES["skirt"]).any():
        _split_skirt(parts, grouped)
    return grouped


def _split_skirt(parts: np.ndarray, grouped: np.ndarray) -> None:
    """Give each skirt pixel to the leg whose pixels lie nearer in x; to both halves alike if no leg shows."""
    rows, columns = np.nonzero(parts == CODES["skirt"])
    names = list(GROUPS["eight"])
    left, right = names.index("left_leg") + 1, names.index("right_leg") + 1
    centres = {leg: np.nonzero(grouped == leg)[1] for leg in (left, right)}
    middle = columns.mean()
    # at rest, seen from the front, the person's left is on the image's right
    x_left = centres[left].mean() if centres[left].size else middle + 1
    x_right = centres[right].mean() if centres[right].size else middle - 1
    grouped[rows, columns] = np.where(np.abs(columns - x_left) <= np.abs(columns - x_right), left, right)


def part_visibility(full: np.ndarray, visible: np.ndarray) -> dict[str, float]:
    """Visible over full pixels of each of the eight groups, from two part maps [H, W]; 0 for a group out of frame."""
    seen_full = group_parts(full, "eight")
    total = np.bincount(seen_full.ravel(), minlength=9)
    shown = np.bincount(seen_full[visible > 0], minlength=9)
    return {name: float(shown[i] / total[i]) if total[i] else 0.0 for i, name in enumerate(GROUPS["eight"], start=1)}
