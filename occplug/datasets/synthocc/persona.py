"""Personas: who is who, as clothing and body attributes, in groups of look-alikes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from occplug.datasets.synthocc.randomness import GROUP, PERSONAL, pick, rng

__all__ = ["ATTRIBUTES", "COLORS", "SKINS", "Persona", "persona"]

COLORS = {
    "black": (28, 28, 30), "white": (232, 232, 228), "grey": (128, 130, 134), "red": (178, 34, 36),
    "orange": (222, 118, 30), "yellow": (226, 196, 54), "green": (44, 118, 58), "blue": (48, 92, 178),
    "navy": (28, 36, 84), "purple": (104, 52, 128), "pink": (222, 142, 168), "brown": (104, 70, 44),
    "beige": (196, 176, 140), "blond": (206, 172, 98),
}  # fmt: skip
_HAIR_COLORS = {"red": (150, 62, 28), "brown": (88, 56, 34), "grey": (150, 150, 152)}  # hair has its own shades
SKINS = ((244, 208, 180), (226, 180, 146), (194, 142, 104), (142, 96, 66), (92, 62, 44))

_TOP_COLORS = {
    "black": 0.19, "white": 0.13, "grey": 0.13, "blue": 0.10, "navy": 0.09, "red": 0.08, "green": 0.07, "yellow": 0.05,
    "orange": 0.04, "purple": 0.04, "pink": 0.04, "brown": 0.04,
}  # fmt: skip
# attribute -> value -> probability; the keys are the names used in files, captions and zero-shot evaluation.
TABLES = {
    "top_type": {"t-shirt": 0.30, "shirt": 0.22, "hoodie": 0.16, "jacket": 0.20, "coat": 0.12},
    "top_color": _TOP_COLORS,
    "top_pattern": {
        "plain": 0.36, "logo": 0.14, "striped": 0.13, "two-tone": 0.12, "checked": 0.10, "vertical striped": 0.08,
        "dotted": 0.07,
    },
    "second_color": _TOP_COLORS,
    "bottom_type": {"trousers": 0.62, "shorts": 0.20, "skirt": 0.18},
    "bottom_color": {
        "black": 0.26, "blue": 0.19, "grey": 0.14, "navy": 0.14, "brown": 0.08, "beige": 0.08, "white": 0.05,
        "red": 0.03, "green": 0.03,
    },
    "hair": {"short": 0.50, "long": 0.25, "ponytail": 0.15, "bald": 0.10},
    "hair_color": {"black": 0.38, "brown": 0.30, "blond": 0.15, "grey": 0.09, "red": 0.08},
    "hat": {"none": 0.74, "cap": 0.15, "beanie": 0.11},
    "hat_color": _TOP_COLORS,
    "bag": {"none": 0.42, "backpack": 0.25, "shoulder bag": 0.19, "handbag": 0.14},
    "bag_color": _TOP_COLORS,
    "bag_side": {"left": 0.5, "right": 0.5},
    "shoe_color": {"black": 0.34, "white": 0.28, "brown": 0.12, "blue": 0.09, "grey": 0.09, "red": 0.08},
    "build": {"slim": 0.30, "average": 0.45, "heavy": 0.25},
    "height": {"short": 0.25, "average": 0.50, "tall": 0.25},
    "inner_color": {"white": 0.2, "grey": 0.2, "black": 0.2, "blue": 0.2, "red": 0.2},
}  # fmt: skip
ATTRIBUTES: dict[str, tuple[str, ...]] = {name: tuple(table) for name, table in TABLES.items()}

_SHARED = ("top_type", "top_color", "bottom_type", "bottom_color")  # by the members of a group
_SHARED_PATTERN = 0.35  # probability that a group shares the pattern as well
_GARMENTS = ("top", "second", "bottom", "hat", "bag", "shoe", "hair", "inner")


@dataclass(frozen=True)
class Persona:
    """One identity. The last four fields are never captioned."""

    pid: int
    group: int
    top_type: str
    top_color: str
    top_pattern: str
    second_color: str
    bottom_type: str
    bottom_color: str
    hair: str
    hair_color: str
    hat: str
    hat_color: str
    bag: str
    bag_color: str
    bag_side: str
    shoe_color: str
    build: str
    height: str
    inner_color: str
    skin: int  # index into SKINS
    tints: tuple[tuple[float, ...], ...]  # RGB offset of each garment, N(0, 6)
    frequency: float  # of the pattern, relative
    phases: tuple[float, float]  # of the pattern, along and around, in periods

    def attributes(self) -> dict[str, str | None]:
        """Name -> value out of `ATTRIBUTES`; None where there is nothing to describe (the hat colour without a hat)."""
        values = {name: getattr(self, name) for name in ATTRIBUTES}
        absent = {
            "second_color": self.top_pattern == "plain",
            "hair_color": self.hair == "bald",
            "hat_color": self.hat == "none",
            "bag_color": self.bag == "none",
            "bag_side": self.bag in ("none", "backpack"),
            "inner_color": self.top_type not in ("jacket", "coat"),
        }
        return {name: None if absent.get(name) else value for name, value in values.items()}

    def captioned(self) -> dict[str, str]:
        """The attributes that the caption tells: a hat hides the hair; height, side and inner shirt are left out."""
        hidden = {"height", "bag_side", "inner_color"} | ({"hair", "hair_color"} if self.hat != "none" else set())
        return {name: value for name, value in self.attributes().items() if value is not None and name not in hidden}

    def color(self, garment: str) -> np.ndarray:
        """[3] RGB of "top", "second", "bottom", "hat", "bag", "shoe", "hair" or "inner", with its hidden tint."""
        name = getattr(self, f"{garment}_color")
        anchor = _HAIR_COLORS.get(name, COLORS[name]) if garment == "hair" else COLORS[name]
        color = np.add(anchor, self.tints[_GARMENTS.index(garment)], dtype=np.float32)
        return np.minimum(np.maximum(color, 4), 250)

    @property
    def width(self) -> float:
        """Factor on lateral sizes."""
        return {"slim": 0.86, "average": 1.0, "heavy": 1.22}[self.build]

    @property
    def stature(self) -> float:
        """Factor on the body height."""
        return {"short": 0.93, "average": 1.0, "tall": 1.06}[self.height]


@lru_cache(maxsize=4096)
def persona(world_seed: int, pid: int, group_size: int) -> Persona:
    """Identity `pid` (0, 1, ...) of a world; it depends on nothing but the three arguments.

    Members of one group share the base outfit; a member whose captioned attributes all equal those of an earlier
    one is drawn again, so that the group can be told apart.
    """
    group = pid // group_size
    base = rng(world_seed, GROUP, group)
    shared = {name: pick(base, TABLES[name]) for name in _SHARED}
    pattern = pick(base, TABLES["top_pattern"])
    if base.random() < _SHARED_PATTERN:
        shared["top_pattern"] = pattern
    earlier = [persona(world_seed, other, group_size).captioned() for other in range(group * group_size, pid)]
    draw = rng(world_seed, PERSONAL, pid)
    while True:
        candidate = _draw_persona(draw, pid, group, shared)
        if candidate.captioned() not in earlier:
            return candidate


def _draw_persona(draw: np.random.Generator, pid: int, group: int, shared: dict[str, str]) -> Persona:
    values = {name: pick(draw, table) for name, table in TABLES.items()} | shared
    others = {name: p for name, p in TABLES["second_color"].items() if name != values["top_color"]}
    values["second_color"] = pick(draw, others)
    return Persona(
        pid=pid,
        group=group,
        skin=int(draw.integers(len(SKINS))),
        tints=tuple(tuple(row) for row in draw.normal(0, 6, (len(_GARMENTS), 3)).tolist()),
        frequency=float(draw.uniform(0.8, 1.25)),
        phases=tuple(draw.random(2).tolist()),
        **values,
    )
