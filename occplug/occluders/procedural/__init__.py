"""Drawn occluders: own work, made from a seed, so that everything runs without a download.

Its shapes and colours are not those of SynthOcc's occluders, whose own generator has another source and other seeds.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

from occplug.occluders.procedural import living, street, things, vehicles
from occplug.occluders.writing import Piece, trimmed

__all__ = ["DRAWERS", "LICENCE", "pieces"]

LICENCE = "CC0-1.0"
DRAWERS = {
    "person": living.person,
    "bicycle": vehicles.bicycle,
    "car": vehicles.car,
    "motorcycle": vehicles.motorcycle,
    "bus": vehicles.bus,
    "truck": vehicles.truck,
    "fire hydrant": street.hydrant,
    "stop sign": street.stop_sign,
    "parking meter": street.parking_meter,
    "post": street.post,
    "bench": street.bench,
    "chair": street.chair,
    "dog": living.dog,
    "stone": street.stone,
    "backpack": things.backpack,
    "handbag": things.handbag,
    "umbrella": things.umbrella,
    "suitcase": things.suitcase,
    "potted plant": living.potted_plant,
    "bush": living.bush,
    "carton": street.carton,
    "kite": things.kite,
}
LARGER = {"person": 1.5, "post": 1.3, "stop sign": 1.3}  # narrow, and pasted nearly as high as the image
TWICE = ("person", "car")  # the most frequent, with several views


def pieces(seed: int = 1, per_category: int = 6, side: int = 144) -> Iterator[Piece]:
    """Cut-outs of all categories; each depends on (seed, category, number, side) alone.

    Args:
        per_category: how many; twice as many people and cars.
        side: longest side in pixels; of people and poles 1.5 and 1.3 times as many.
    """
    for name, drawer in DRAWERS.items():
        longest = round(side * LARGER.get(name, 1))
        for number in range(per_category * (2 if name in TWICE else 1)):
            draw = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
            source = {"generator": "occplug", "seed": seed, "number": number}
            yield Piece(name, trimmed(drawer(draw, longest), longest), source, LICENCE)
