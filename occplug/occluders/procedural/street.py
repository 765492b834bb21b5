"""Drawn things that stand in the street."""

from __future__ import annotations

import numpy as np

from occplug.occluders.procedural.sketch import Sketch, varied

__all__ = ["bench", "carton", "chair", "hydrant", "parking_meter", "post", "stone", "stop_sign"]

WOOD, IRON, CONCRETE = (134, 96, 60), (62, 64, 68), (150, 148, 142)


def _planks(s: Sketch, mask: np.ndarray, colour: np.ndarray, length: float = 0.5) -> None:
    """Wood with its grain along x."""
    x, y = s.grid()
    streaks = np.sin((y * 60 + 1.6 * s.noise(length)) * 1.7) * 0.07 + 0.06 * s.noise(0.08)
    s.paint(mask, colour * (1 + streaks)[..., None], round_=0.03, grain=0.02)


def bench(draw: np.random.Generator, side: int) -> np.ndarray:
    """A bench of planks on two iron legs."""
    width = draw.uniform(1.3, 1.7)
    s = Sketch(width, 0.95, side, draw)
    wood, iron = varied(draw, WOOD, 12), varied(draw, IRON, 8)
    for x in (0.14, width - 0.14):
        s.paint(s.limb([(x, 0.05), (x + 0.02, 0.5), (x, 0.93)], [0.05, 0.06, 0.05]), iron, round_=0.04)
        s.paint(s.stroke([(x - 0.08, 0.93), (x + 0.1, 0.93)], 0.04), iron, round_=0.03)
        s.paint(s.stroke([(x - 0.05, 0.34), (x, 0.3), (x + 0.08, 0.36)], 0.045, smooth=True), iron, round_=0.03)
    for top in np.linspace(0.04, 0.34, int(draw.integers(3, 5))):
        _planks(s, s.box(0.03, top, width - 0.03, top + 0.075, 0.015), wood * draw.uniform(0.9, 1.1))
    s.shadow(s.box(0, 0.6, width, 0.72), 0.35)
    for top in (0.5, 0.565, 0.635):
        _planks(s, s.box(0.02, top, width - 0.02, top + 0.055, 0.012), wood * draw.uniform(0.82, 1.0))
    return s.rgba()


def chair(draw: np.random.Generator, side: int) -> np.ndarray:
    """A chair with slats or a closed back."""
    s = Sketch(0.62, 1.0, side, draw)
    wood = varied(draw, ((134, 96, 60), (60, 62, 66), (170, 40, 40), (214, 208, 196))[draw.integers(4)], 10)
    for x, low in ((0.12, 0.92), (0.5, 0.92)):
        s.paint(s.limb([(x, 0.06), (x, low)], [0.05, 0.04]), 0.8 * wood, round_=0.03)
    if draw.random() < 0.5:
        for top in (0.06, 0.18, 0.3):
            s.paint(s.box(0.1, top, 0.52, top + 0.075, 0.02), wood, round_=0.03)
    else:
        s.paint(
            s.blob([(0.1, 0.1), (0.31, 0.03), (0.52, 0.1), (0.5, 0.44), (0.31, 0.48), (0.12, 0.44)]), wood, round_=0.08
        )
    s.paint(s.polygon([(0.1, 0.5), (0.52, 0.5), (0.6, 0.6), (0.04, 0.6)]), 1.08 * wood, round_=0.03)
    s.paint(s.box(0.04, 0.595, 0.6, 0.645, 0.01), 0.8 * wood)
    for x in (0.065, 0.575):
        s.paint(s.limb([(x, 0.64), (x, 0.98)], [0.05, 0.04]), 0.9 * wood, round_=0.03)
    s.paint(s.stroke([(0.07, 0.82), (0.57, 0.82)], 0.025), 0.75 * wood, round_=0.02)
    return s.rgba()


def hydrant(draw: np.random.Generator, side: int) -> np.ndarray:
    """A fire hydrant in one of four colours."""
    s = Sketch(0.5, 0.9, side, draw)
    red = varied(draw, ((178, 30, 26), (200, 160, 30), (60, 90, 150), (196, 196, 190))[draw.integers(4)], 10)
    s.paint(s.box(0.08, 0.8, 0.42, 0.89, 0.02), 0.75 * red, round_=0.05)
    s.paint(s.box(0.14, 0.28, 0.36, 0.84, 0.03), red, round_=0.16)
    s.paint(s.blob([(0.12, 0.29), (0.14, 0.15), (0.25, 0.06), (0.36, 0.15), (0.38, 0.29)]), red, round_=0.14)
    s.paint(s.box(0.21, 0.01, 0.29, 0.1, 0.02), 0.85 * red, round_=0.05)
    s.paint(s.box(0.1, 0.27, 0.4, 0.33, 0.02), 0.92 * red, round_=0.04)
    for x in (0.06, 0.44):
        s.paint(s.box(x - 0.05, 0.4, x + 0.05, 0.52, 0.02), 0.85 * red, round_=0.06)
    s.paint(s.disc(0.25, 0.5, 0.085), 0.8 * red, round_=0.06)
    s.paint(s.disc(0.25, 0.5, 0.03), 0.6 * red, round_=0.03)
    s.fade()
    return s.rgba()


def _pole(s: Sketch, x: float, top: float, bottom: float, width: float, colour) -> None:
    s.paint(s.box(x - width / 2, top, x + width / 2, bottom), colour, round_=1.1 * width, grain=0.05)


def stop_sign(draw: np.random.Generator, side: int) -> np.ndarray:
    """A traffic sign on its pole: stop, no stopping, or parking."""
    s = Sketch(0.8, 2.1, side, draw)
    _pole(s, 0.4, 0.5, 2.1, 0.07, varied(draw, (150, 152, 154), 8))
    kind = draw.integers(3)
    if kind == 0:
        angles = np.arange(8) * np.pi / 4 + np.pi / 8
        eight = np.stack([np.cos(angles), np.sin(angles)], 1)
        s.paint(s.polygon((0.4, 0.4) + 0.39 * eight), (228, 226, 222))
        s.paint(s.polygon((0.4, 0.4) + 0.355 * eight), varied(draw, (178, 28, 30), 6), grain=0.05)
        for x in (0.19, 0.32, 0.45, 0.58):  # four letters that nobody can read from here
            s.paint(s.stroke([(x, 0.34), (x + 0.05, 0.34), (x + 0.05, 0.47), (x, 0.47)], 0.028), (232, 230, 226))
    elif kind == 1:
        s.paint(s.disc(0.4, 0.4, 0.38), varied(draw, (182, 30, 32), 6))
        s.paint(s.disc(0.4, 0.4, 0.3), ((230, 228, 222), (36, 70, 148))[draw.integers(2)], grain=0.04)
        s.paint(s.stroke([(0.21, 0.21), (0.59, 0.59)], 0.07), (182, 30, 32))
    else:
        s.paint(s.box(0.08, 0.05, 0.72, 0.75, 0.06), varied(draw, (34, 76, 150), 8), grain=0.04)
        s.paint(
            s.stroke([(0.3, 0.62), (0.3, 0.2), (0.46, 0.2), (0.5, 0.3), (0.46, 0.42), (0.3, 0.42)], 0.07),
            (232, 232, 230),
        )
    s.fade(1.05, 0.85)
    return s.rgba()


def parking_meter(draw: np.random.Generator, side: int) -> np.ndarray:
    """A parking meter on its pole."""
    s = Sketch(0.42, 1.5, side, draw)
    grey = varied(draw, ((104, 108, 114), (60, 66, 72), (150, 150, 144))[draw.integers(3)], 8)
    _pole(s, 0.21, 0.5, 1.5, 0.09, 0.9 * grey)
    s.paint(s.box(0.07, 1.42, 0.35, 1.5), 0.7 * grey, round_=0.04)
    s.paint(
        s.blob([(0.03, 0.5), (0.02, 0.16), (0.21, 0.01), (0.4, 0.16), (0.39, 0.5), (0.28, 0.6), (0.14, 0.6)]),
        grey,
        round_=0.16,
    )
    s.paint(s.blob([(0.09, 0.24), (0.12, 0.13), (0.21, 0.09), (0.3, 0.13), (0.33, 0.24)]), (52, 62, 66))
    s.paint(s.box(0.13, 0.31, 0.29, 0.39, 0.01), (196, 190, 160))
    s.paint(s.box(0.18, 0.44, 0.24, 0.47), (24, 24, 26))
    return s.rgba()


def post(draw: np.random.Generator, side: int) -> np.ndarray:
    """A lamp post, a bollard or a striped post."""
    kind = draw.integers(3)
    if kind == 0:  # a lamp post or a trunk-like pole, cut by the frame above
        s = Sketch(0.26, 2.2, side, draw)
        _pole(s, 0.13, 0, 2.2, draw.uniform(0.12, 0.22), varied(draw, (104, 106, 104), 16))
        s.paint(s.box(0.02, 1.95, 0.24, 2.2, 0.02), varied(draw, (88, 90, 90), 8), round_=0.16)
        if draw.random() < 0.6:
            s.paint(s.box(0.05, 0.8, 0.21, 1.08), varied(draw, (210, 204, 190), 20), round_=0.1)
    elif kind == 1:  # a bollard
        s = Sketch(0.34, 1.15, side, draw)
        colour = varied(draw, (76, 78, 80), 14)
        s.paint(s.box(0.06, 0.08, 0.28, 1.15, 0.1), colour, round_=0.2)
        s.paint(s.disc(0.17, 0.12, 0.13, 0.11), 1.1 * colour, round_=0.12)
        for top in (0.3, 0.42):
            s.paint(s.box(0.06, top, 0.28, top + 0.06), (206, 200, 190), round_=0.2)
    else:  # striped
        s = Sketch(0.2, 1.6, side, draw)
        first, second = ((196, 36, 32), (232, 230, 224)) if draw.random() < 0.5 else ((216, 176, 30), (34, 34, 36))
        _, y = s.grid()
        bands = np.broadcast_to((y / draw.uniform(0.14, 0.3)) % 1 < 0.5, s.shape)[..., None]
        s.paint(
            s.box(0.03, 0.02, 0.17, 1.6, 0.05),
            np.where(bands, np.array(first, np.float32), np.array(second, np.float32)),
            round_=0.14,
        )
    s.fade(1.05, 0.85)
    return s.rgba()


def stone(draw: np.random.Generator, side: int) -> np.ndarray:
    """A boulder with cracks."""
    s = Sketch(1.2, 0.85, side, draw)
    angles = np.linspace(0, 2 * np.pi, 11, endpoint=False)
    radius = draw.uniform(0.78, 1.0, 11)
    points = np.stack([0.6 + 0.57 * radius * np.cos(angles), 0.47 + 0.37 * radius * np.sin(angles)], 1)
    points[:, 1] = np.minimum(points[:, 1], 0.8)
    grey = varied(draw, CONCRETE, 5)
    bumps = 1 + 0.09 * s.noise(0.16) + 0.07 * s.noise(0.05) + 0.05 * s.noise(0.02)
    s.paint(s.blob(points), grey * bumps[..., None], round_=0.5, grain=0.05)
    for _ in range(3):
        start = draw.uniform((0.3, 0.25), (0.9, 0.6))
        crack = start + np.cumsum(draw.normal(0, 0.06, (5, 2)), 0)
        s.shadow(s.stroke(crack, 0.012), 0.45)
    s.shadow(1 - s.alpha, 0)
    s.fade(1.12, 0.66)
    return s.rgba()


def carton(draw: np.random.Generator, side: int) -> np.ndarray:
    """A closed carton with a label, two sides and the top in view."""
    width, height = draw.uniform(0.5, 0.9), draw.uniform(0.4, 0.75)
    s = Sketch(width + 0.22, height + 0.2, side, draw)
    card = varied(draw, (176, 136, 92), 9)
    s.paint(s.polygon([(0, 0.2), (0.22, 0.02), (width + 0.22, 0.02), (width, 0.2)]), 1.12 * card)
    s.paint(s.polygon([(width, 0.2), (width + 0.22, 0.02), (width + 0.22, height), (width, height + 0.2)]), 0.66 * card)
    s.paint(s.box(0, 0.2, width, height + 0.2), card, grain=0.05)
    s.paint(s.box(0.44 * width, 0.2, 0.56 * width, 0.2 + 0.3 * height), (204, 178, 134), opacity=0.8)
    x = draw.uniform(0.08, 0.3) * width
    s.paint(s.box(x, 0.2 + 0.5 * height, x + 0.34 * width, 0.2 + 0.8 * height), (224, 222, 214))
    for line in (0.58, 0.66, 0.73):
        s.paint(s.box(x + 0.03, 0.2 + line * height, x + 0.26 * width, 0.215 + line * height), (70, 70, 74))
    s.fade(1.05, 0.88)
    return s.rgba()
