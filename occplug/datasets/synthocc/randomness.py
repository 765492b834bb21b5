"""Random streams named by integer keys, so that every image can be drawn alone, in any process and any order."""

from __future__ import annotations

import numpy as np

__all__ = ["BANK_WORLD", "GROUP", "PERSONAL", "CAMERA", "IMAGE", "OCCLUDER", "PLAN", "PASSERS_BY", "pick", "rng"]

# The second key of a stream; the first is the world seed.
GROUP, PERSONAL, CAMERA, IMAGE, OCCLUDER, PLAN = 11, 12, 21, 31, 32, 41

BANK_WORLD = 4242  # occluder cut-outs for pasting: other instances than those of any test image
PASSERS_BY = 7777  # added to the world seed: people who stand in front, never in train or test


def rng(*keys: int) -> np.random.Generator:
    """The generator of the stream `keys`; equal keys give equal draws everywhere."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(keys)))


def pick(draw: np.random.Generator, table: dict[str, float]) -> str:
    """One key of `table` (value -> probability or weight), with one draw of `draw`."""
    weights = np.cumsum(list(table.values()))
    return list(table)[int(np.searchsorted(weights, draw.random() * weights[-1], side="right"))]
