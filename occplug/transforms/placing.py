"""How large an occluder is in the image, and where it stands (DPL-ReID's RWOA; the numbers are ours)."""

from __future__ import annotations

import itertools
import math

__all__ = ["pasted_size", "pasted_sizes", "position"]

TALLEST, WIDEST = 0.9, 1.5  # shares of the image's height and width
LEAST_ALPHA = 0.1  # a thin object is not blown up beyond what this mean alpha asks for


def pasted_size(aspect: float, alpha_mean: float, cover: float, height: int, width: int) -> tuple[int, int]:
    """(height, width) in pixels of a cut-out that hides about the share `cover` of an image [height, width].

    Args:
        aspect: its width / height, which is kept.
        alpha_mean: its mean alpha; a see-through object must be larger to hide as much.
    """
    return _rounded(_height(aspect, alpha_mean, cover, height, width), aspect)


def pasted_sizes(
    aspect: float, alpha_mean: float, covers: tuple[float, float], height: int, width: int
) -> list[tuple[int, int]]:
    """All sizes that :func:`pasted_size` gives for the covers from the first to the second."""
    low, high = (_height(aspect, alpha_mean, cover, height, width) for cover in covers)
    steps = [(whole + 0.5) / unit for unit in (1, aspect) for whole in range(int(low * unit), int(high * unit) + 1)]
    ends = [low, *sorted(step for step in steps if low < step < high), high]
    # neither side changes between two steps
    return sorted({_rounded((one + other) / 2, aspect) for one, other in itertools.pairwise(ends)})


def _height(aspect: float, alpha_mean: float, cover: float, height: int, width: int) -> float:
    h = math.sqrt(cover * height * width / (aspect * max(alpha_mean, LEAST_ALPHA)))
    return h * min(1.0, TALLEST * height / h, WIDEST * width / (aspect * h))


def _rounded(h: float, aspect: float) -> tuple[int, int]:
    return max(1, round(h)), max(1, round(aspect * h))


def position(
    anchor: str, size: tuple[int, int], image: tuple[int, int], draws: tuple[float, float, float]
) -> tuple[int, int] | None:
    """(top, left) of a cut-out; None if these draws put more than half of an unanchored one outside.

    Args:
        anchor: how it stands, one of `occplug.occluders.categories.ANCHORS`.
        size, image: (height, width) in pixels.
        draws: uniform in [0, 1): across, down, and which side.
    """
    (h, w), (height, width), (across, down, side) = size, image, draws
    if anchor == "bottom":
        left, top = _uniform(-0.3 * w, width - 0.7 * w, across), height - h + 0.1 * h * down
    elif anchor == "side":
        left, top = _uniform(-0.35 * w, 0.2 * width, across), height - h + 0.15 * h * down
        left = left if side < 0.5 else width - w - left
    elif anchor == "any":
        left, top = _uniform(-w / 2, width - w / 2, across), _uniform(-h / 2, height - h / 2, down)
    else:
        left = _uniform(-0.2 * w, width - 0.8 * w, across)
        if anchor == "stand":
            top = height - h + 0.1 * h * down
        elif anchor == "top":
            top = -0.3 * h * down
        else:
            top = _uniform(0.3, 0.65, down) * height - h / 2
    top, left = round(top), round(left)
    if anchor == "any" and 2 * _overlap(top, h, height) * _overlap(left, w, width) < h * w:
        return None
    return top, left


def _uniform(low: float, high: float, draw: float) -> float:
    return low + (high - low) * draw


def _overlap(start: int, length: int, limit: int) -> int:
    return max(0, min(start + length, limit) - max(start, 0))
