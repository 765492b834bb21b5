"""What is printed on the surfaces: patterns of cloth, what only one side of a body shows, faces and hair."""

from __future__ import annotations

import numpy as np

from occplug.datasets.synthocc.persona import SKINS, Persona
from occplug.datasets.synthocc.solid import Surface, Texture

__all__ = ["head", "legwear", "long_bag", "sleeve", "skin", "tail", "torso"]

_TAU = np.float32(2 * np.pi)


def skin(person: Persona) -> np.ndarray:
    """[3] RGB."""
    return np.array(SKINS[person.skin], np.float32)


def _mix(color: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`color` ([3] or [h, w, 3]) with `share` ([h, w] in [0, 1]) of `other`."""
    return color + share[..., None] * (other - color)


def _soft(x: np.ndarray, sharpness: float) -> np.ndarray:
    """A step at 0, smooth over about 1 / sharpness."""
    x = np.float32(0.5) + np.float32(sharpness) * x
    np.minimum(x, np.float32(1), out=x)
    return np.maximum(x, np.float32(0), out=x)


def _window(surface: Surface, side: float, width: float, top: float, bottom: float, sign: int = 1) -> np.ndarray:
    """Share of a patch on the front (sign 1) or back (-1): |side - centre| < width and top < t < bottom."""
    inside = _soft(width - np.abs(surface.side - np.float32(side)), 12)
    inside *= _soft(np.minimum(surface.t - np.float32(top), np.float32(bottom) - surface.t), 40)
    return inside * (sign * surface.front > 0)


def pattern(person: Persona, surface: Surface, length: float) -> np.ndarray | None:
    """Share of the second colour in all-over patterns, [h, w]; None for plain cloth. `length` in body heights."""
    along, around = map(np.float32, person.phases)
    v = surface.t * np.float32(length * person.frequency)
    name = person.top_pattern
    if name == "striped":
        return _soft(np.sin(_TAU * (18 * v + along)), 2)
    if name == "vertical striped":
        return _soft(np.sin(np.float32(8 * person.frequency) * surface.azimuth + _TAU * around), 2)
    if name == "checked":
        columns = np.sin(np.float32(6 * person.frequency) * surface.azimuth + _TAU * around)
        return _soft(np.sin(_TAU * (13 * v + along)) * columns, 4)
    if name == "dotted":
        columns = np.cos(np.float32(8 * person.frequency) * surface.azimuth + _TAU * around)
        return _soft(np.cos(_TAU * (15 * v + along)) + columns - np.float32(0.75), 2.5)
    return None


def _cloth(person: Persona, surface: Surface, length: float) -> np.ndarray:
    share = pattern(person, surface, length)
    return person.color("top") if share is None else _mix(person.color("top"), person.color("second"), share)


def sleeve(person: Persona, length: float, end: float) -> Texture:
    """An arm: cloth up to t = `end`, skin beyond; a long sleeve has `end` >= 1."""

    def texture(surface: Surface) -> np.ndarray:
        color = _cloth(person, surface, length)
        return color if end >= 1 else _mix(color, skin(person), _soft(surface.t - np.float32(end), 15))

    return texture


def legwear(person: Persona, end: float) -> Texture:
    """A leg: cloth up to t = `end`, skin beyond."""

    def texture(surface: Surface) -> np.ndarray:
        return _mix(person.color("bottom"), skin(person), _soft(surface.t - np.float32(end), 20))

    return texture


def torso(person: Persona, length: float) -> Texture:
    """The upper garment; its second layers face where they belong: logo, opening, pocket and straps."""

    def texture(surface: Surface) -> np.ndarray:
        color = _cloth(person, surface, length)
        if person.top_pattern == "two-tone":
            color = _mix(color, person.color("second"), _soft(surface.t - np.float32(0.48), 25))
        elif person.top_pattern == "logo":
            color = _logo(person, surface, color)
        color = _closure(person, surface, color)
        return _straps(person, surface, color)

    return texture


def _logo(person: Persona, surface: Surface, color: np.ndarray) -> np.ndarray:
    # beside the opening of a jacket, else in the middle of the chest
    center, width = (0.56, 0.24) if person.top_type in ("jacket", "coat") else (0.0, 0.46)
    panel = _window(surface, center, width, 0.2, 0.52)
    hole = _window(surface, center, 0.3 * width, 0.32, 0.40)
    return _mix(color, person.color("second"), panel - panel * hole)


def _closure(person: Persona, surface: Surface, color: np.ndarray) -> np.ndarray:
    """What the front of each type of garment looks like."""
    of_top = person.color("top")
    if person.top_type in ("jacket", "coat"):
        opening = _soft(np.float32(0.24) - np.abs(surface.side) + np.float32(0.06) * surface.t, 14)
        return _mix(color, person.color("inner"), opening * (surface.front > 0))
    if person.top_type == "shirt":
        color = _mix(color, 0.6 * of_top + 20, 0.8 * _window(surface, 0.0, 0.035, 0.0, 1.0))
        return _mix(color, 0.7 * of_top + 60, _window(surface, 0.0, 0.3, -1.0, 0.07))
    if person.top_type == "hoodie":
        return _mix(color, 0.72 * of_top, 0.9 * _window(surface, 0.0, 0.5, 0.66, 0.9))
    return _mix(color, skin(person), _window(surface, 0.0, 0.3, -1.0, 0.05))


def _straps(person: Persona, surface: Surface, color: np.ndarray) -> np.ndarray:
    if person.bag == "backpack":
        bands = _soft(np.float32(0.09) - np.abs(np.abs(surface.side) - np.float32(0.52)), 12)
        bands *= _soft(np.float32(0.62) - surface.t, 25) * (surface.front > 0)
        return _mix(color, 0.8 * person.color("bag"), bands)
    if person.bag == "shoulder bag":
        lean = 1 if person.bag_side == "left" else -1
        line = np.float32(lean) * (np.float32(1.75) * surface.t - np.float32(0.72))
        return _mix(color, 0.75 * person.color("bag"), _soft(np.float32(0.1) - np.abs(surface.side - line), 12))
    return color


def tail(person: Persona, length: float) -> Texture:
    """The lower part of an open coat: the opening in front lets the legs show."""

    def texture(surface: Surface) -> np.ndarray:
        gap = _soft(np.float32(0.26) - np.abs(surface.side) + np.float32(0.12) * surface.t, 14)
        surface.coverage *= 1 - gap * (surface.front > 0)
        if person.top_pattern == "two-tone":
            return person.color("second")
        return _cloth(person, surface, length)

    return texture


def long_bag(person: Persona) -> Texture:
    """A bag with a darker flap and a clasp line."""

    def texture(surface: Surface) -> np.ndarray:
        of_bag = person.color("bag")
        return _mix(of_bag, 0.7 * of_bag, _soft(np.float32(0.06) - np.abs(surface.t - np.float32(0.4)), 20))

    return texture


def head(person: Persona) -> Texture:
    """Face in front, hair on top and behind; a bald head has none."""
    # hair ends at t = top in front and further down behind
    top, drop = {"short": (0.2, 0.26), "long": (0.2, 0.5), "ponytail": (0.18, 0.27), "bald": (-9.0, 0.0)}[person.hair]

    def texture(surface: Surface) -> np.ndarray:
        tone = skin(person)
        eyes = ((np.abs(surface.side) - 0.38) / 0.13) ** 2 + ((surface.t - 0.47) / 0.055) ** 2
        features = (eyes < 1) | ((np.abs(surface.side) < 0.3) & (np.abs(surface.t - 0.78) < 0.025))
        color = _mix(tone, 0.35 * tone, (features & (surface.front > 0)).astype(np.float32))
        edge = np.float32(top) + np.float32(drop) * (1 - surface.front)
        return _mix(color, person.color("hair"), _soft(edge - surface.t, 20))

    return texture
