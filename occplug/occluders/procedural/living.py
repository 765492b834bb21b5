"""Drawn people, dogs and plants."""

from __future__ import annotations

import numpy as np

from occplug.occluders.procedural.sketch import Sketch, varied
from occplug.occluders.procedural.things import CLOTHS

__all__ = ["bush", "dog", "person", "potted_plant"]

SKINS = ((232, 190, 160), (206, 158, 122), (160, 112, 80), (104, 70, 50))
HAIRS = ((34, 26, 22), (70, 46, 30), (128, 88, 50), (150, 146, 140), (196, 160, 100))
COATS = ((120, 84, 50), (50, 42, 38), (196, 176, 144), (220, 214, 204), (150, 104, 62))


def _pick(draw: np.random.Generator, colours, spread: float = 9) -> np.ndarray:
    return varied(draw, colours[draw.integers(len(colours))], spread)


def _folds(s: Sketch, mask: np.ndarray, colour: np.ndarray, round_: float, pattern: int = 0) -> None:
    """Cloth: soft creases, and perhaps stripes (1) or checks (2)."""
    x, y = s.grid()
    field = 1 + 0.08 * s.noise(0.1) + 0.06 * np.sin(26 * (x + 0.5 * y) + 2 * s.noise(0.16))
    if pattern:
        band = (y / 0.06) % 1 < 0.4
        band = band if pattern == 1 else band ^ ((x / 0.06) % 1 < 0.4)
        field = field * np.where(band, 0.62, 1)
    s.paint(mask, colour * np.broadcast_to(field, s.shape)[..., None], round_=round_, grain=0.03)


def _legs(s: Sketch, stride: float, colour: np.ndarray, shoes: np.ndarray) -> None:
    hip = 0.9
    for number, (x, sign) in enumerate(((0.36, -1), (0.48, 1))):
        knee, foot = (x + 0.5 * sign * stride, 1.3), (x + sign * stride, 1.7)
        toe = 0.05 if stride else 0.03 * sign
        s.paint(
            s.limb([(foot[0] - 0.02, foot[1] + 0.02), (foot[0] + toe, foot[1] + 0.035)], [0.09, 0.075]),
            shoes,
            round_=0.05,
        )
        tone = colour * (0.82 if number == 0 and stride > 0.05 else 1)
        _folds(s, s.limb([(x, hip), knee, foot], [0.2, 0.145, 0.1]), tone, 0.12)


def person(draw: np.random.Generator, side: int) -> np.ndarray:
    """A passer-by, seen from the front or from behind."""
    s = Sketch(0.84, 1.78, side, draw)
    top, trousers, shoes = (_pick(draw, CLOTHS) for _ in range(3))
    skin, hair = _pick(draw, SKINS, 5), _pick(draw, HAIRS, 6)
    wide, stride = draw.uniform(0.9, 1.18), draw.choice([0, draw.uniform(0.03, 0.1)])
    _legs(s, stride, 0.8 * trousers, 0.6 * shoes)
    long_ = draw.random() < 0.35  # a coat or a dress
    hem = draw.uniform(1.15, 1.35) if long_ else draw.uniform(0.92, 1.0)
    shoulder = 0.2 * wide
    bend = draw.uniform(-0.05, 0.05)
    for sign in (-1, 1):
        elbow = (0.42 + sign * (shoulder + 0.06), 0.68)
        hand = (0.42 + sign * (shoulder + 0.05) + bend, 0.93)
        s.paint(s.disc(hand[0], hand[1] + 0.03, 0.042, 0.055), skin, round_=0.04)
        _folds(s, s.limb([(0.42 + sign * (shoulder - 0.02), 0.4), elbow, hand], [0.13, 0.115, 0.09]), 0.92 * top, 0.08)
    back = draw.random() < 0.4
    if not back and draw.random() < 0.45:
        _hair_behind(s, hair)
    waist = 0.155 * wide
    torso = [(0.42 - 0.07, 0.3), (0.42 + 0.07, 0.3), (0.42 + shoulder, 0.36), (0.42 + waist, 0.68),
             (0.42 + 0.18 * wide + 0.08 * long_, hem), (0.42 - 0.18 * wide - 0.08 * long_, hem), (0.42 - waist, 0.68),
             (0.42 - shoulder, 0.36)]  # fmt: skip
    s.paint(s.box(0.37, 0.24, 0.47, 0.36, 0.03), 0.85 * skin, round_=0.06)
    _folds(s, s.blob(torso), top, 0.2, pattern=int(draw.choice([0, 0, 0, 1, 2])))
    if not back and draw.random() < 0.6:
        s.shadow(s.stroke([(0.42, 0.34), (0.425, hem - 0.02)], 0.014), 0.4)
    if draw.random() < 0.35:
        pack = s.blob([(0.28, 0.42), (0.42, 0.38), (0.56, 0.42), (0.57, 0.76), (0.42, 0.8), (0.27, 0.76)])
        if back:
            s.paint(pack, _pick(draw, CLOTHS), round_=0.12)
        else:
            for x in (0.33, 0.51):
                s.paint(s.stroke([(x, 0.34), (x, 0.66)], 0.035), (40, 40, 44), round_=0.03)
    _head(s, skin, hair, back)
    s.fade(1.06, 0.84)
    return s.rgba()


def _hair_behind(s: Sketch, hair: np.ndarray) -> None:
    """Long hair seen from the front: it falls behind the shoulders."""
    s.paint(s.blob([(0.31, 0.18), (0.42, 0.04), (0.53, 0.18), (0.55, 0.42), (0.29, 0.42)]), 0.8 * hair, round_=0.08)


def _head(s: Sketch, skin: np.ndarray, hair: np.ndarray, back: bool) -> None:
    if back and s.draw.random() < 0.4:
        s.paint(
            s.blob([(0.32, 0.16), (0.42, 0.02), (0.52, 0.16), (0.54, 0.4), (0.42, 0.43), (0.3, 0.4)]),
            0.9 * hair,
            round_=0.1,
        )
    if back:
        s.paint(s.disc(0.42, 0.16, 0.098, 0.13), hair * (1 + 0.1 * s.noise(0.03))[..., None], round_=0.1)
        return
    s.paint(s.disc(0.42, 0.17, 0.09, 0.122), skin, round_=0.11)
    for x in (0.385, 0.455):
        s.paint(s.disc(x, 0.165, 0.012, 0.008), (44, 34, 30))
        s.shadow(s.stroke([(x - 0.015, 0.148), (x + 0.015, 0.148)], 0.008), 0.4)
    s.shadow(s.stroke([(0.42, 0.17), (0.415, 0.2), (0.425, 0.203)], 0.008), 0.3)
    s.paint(s.stroke([(0.4, 0.235), (0.44, 0.235)], 0.01), 0.62 * skin)
    fringe = [
        (0.325, 0.17),
        (0.33, 0.07),
        (0.42, 0.02),
        (0.51, 0.07),
        (0.515, 0.17),
        (0.49, 0.11),
        (0.42, 0.085),
        (0.35, 0.11),
    ]
    s.paint(s.blob(fringe), hair * (1 + 0.1 * s.noise(0.03))[..., None], round_=0.05)


def dog(draw: np.random.Generator, side: int) -> np.ndarray:
    """A dog from the side, with a collar."""
    s = Sketch(1.15, 0.85, side, draw)
    coat = _pick(draw, COATS)
    fur = coat * (1 + 0.09 * s.noise(0.04) + 0.06 * s.noise(0.015))[..., None]
    lift = draw.uniform(-0.08, 0.05)
    s.paint(s.limb([(0.2, 0.36), (0.1, 0.24 + lift), (0.05, 0.1 + lift)], [0.08, 0.06, 0.04]), fur, round_=0.05)
    for x in (0.32, 0.8):
        s.paint(s.limb([(x, 0.5), (x + 0.02, 0.66), (x, 0.82)], [0.12, 0.075, 0.07]), 0.72 * fur, round_=0.06)
    belly = [(0.86, 0.54), (0.6, 0.6), (0.4, 0.54), (0.2, 0.52)]
    s.paint(s.blob([(0.16, 0.36), (0.4, 0.27), (0.7, 0.28), (0.88, 0.36), *belly]), fur, round_=0.22)
    for x in (0.23, 0.72):
        s.paint(s.limb([(x, 0.46), (x + 0.02, 0.66), (x, 0.82)], [0.15, 0.085, 0.075]), fur, round_=0.08)
    s.paint(s.limb([(0.8, 0.4), (0.92, 0.22)], [0.22, 0.16]), fur, round_=0.14)
    s.paint(s.limb([(0.92, 0.2), (1.08, 0.25)], [0.21, 0.1]), fur, round_=0.12)
    s.paint(s.blob([(0.84, 0.1), (0.92, 0.12), (0.9, 0.3), (0.83, 0.32), (0.8, 0.2)]), 0.66 * fur, round_=0.06)
    s.paint(s.disc(1.11, 0.22, 0.028, 0.024), (26, 24, 24), round_=0.02)
    s.paint(s.disc(0.985, 0.17, 0.016), (26, 20, 18))
    s.paint(s.stroke([(0.8, 0.3), (0.9, 0.38)], 0.035), _pick(draw, CLOTHS), round_=0.03)
    return s.rgba()


def _leaves(s: Sketch, centres: np.ndarray, size: float, green: np.ndarray, top: float, bottom: float) -> None:
    """Leaves at `centres` [n, 2], the lower and the inner ones darker."""
    for x, y in centres:
        tone = (1.12 - 0.5 * (y - top) / (bottom - top)) * s.draw.uniform(0.66, 1.22)
        long_, turn = size * s.draw.uniform(0.7, 1.4), s.draw.uniform(0, 180)
        _dab(s, (x, y), long_, 0.46 * long_, turn, np.clip(green * tone + s.draw.normal(0, 5, 3), 0, 255))


def _dab(s: Sketch, centre, long_: float, short: float, turn: float, colour: np.ndarray) -> None:
    """A small ellipse, painted in its own window only, with a lighter middle vein."""
    import cv2

    reach = int(np.ceil(long_ * s.scale)) + 2
    cx, cy = (int(round(v * s.scale)) for v in centre)
    rows, columns = slice(max(0, cy - reach), cy + reach), slice(max(0, cx - reach), cx + reach)
    window = np.zeros(s.alpha[rows, columns].shape, np.uint8)
    if not window.size:
        return
    local = (cx - columns.start, cy - rows.start)
    axes = (max(1, round(long_ * s.scale)), max(1, round(short * s.scale)))
    cv2.ellipse(window, local, axes, turn, 0, 360, 255, -1, cv2.LINE_AA)
    share = window.astype(np.float32)[..., None] / 255
    half = np.zeros_like(window)
    cv2.ellipse(half, local, axes, turn, 0, 180, 255, -1, cv2.LINE_AA)
    tone = 1 + 0.16 * (half.astype(np.float32)[..., None] / 255 - 0.5)
    s.colour[rows, columns] = s.colour[rows, columns] * (1 - share) + np.clip(colour * tone, 0, 255) * share
    s.alpha[rows, columns] = s.alpha[rows, columns] * (1 - share[..., 0]) + share[..., 0]


def _green(draw: np.random.Generator) -> np.ndarray:
    return varied(draw, ((58, 96, 44), (74, 110, 58), (96, 112, 50), (44, 80, 52))[draw.integers(4)], 7)


def bush(draw: np.random.Generator, side: int) -> np.ndarray:
    """A bush of a few hundred leaves."""
    width, height = draw.uniform(0.8, 1.4), draw.uniform(0.75, 1.1)
    s = Sketch(width, height, side, draw)
    green = _green(draw)
    heads = draw.uniform((0.22 * width, 0.3 * height), (0.78 * width, 0.7 * height), (6, 2))
    radii = draw.uniform(0.16, 0.24, 6) * width
    cloud = np.zeros(s.shape, np.float32)
    for (x, y), radius in zip(heads, radii):
        cloud = np.maximum(cloud, s.disc(x, y, radius, 0.85 * radius))
    cloud = np.maximum(cloud, s.box(0.12 * width, 0.62 * height, 0.88 * width, 0.98 * height, 0.1))
    s.paint(cloud, 0.42 * green, round_=0.2, grain=0.15)
    rows, columns = np.nonzero(cloud > 0.5)
    chosen = draw.integers(len(rows), size=int(draw.integers(420, 620)))
    centres = np.stack([columns[chosen], rows[chosen]], 1) / s.scale
    _leaves(s, centres[centres[:, 1].argsort()[::-1]], 0.042, 1.15 * green, 0, height)
    return s.rgba()


def potted_plant(draw: np.random.Generator, side: int) -> np.ndarray:
    """Long or small leaves in a pot."""
    s = Sketch(0.95, 1.35, side, draw)
    green, clay = (
        _green(draw),
        varied(draw, ((170, 90, 60), (120, 118, 114), (60, 62, 66), (206, 200, 190))[draw.integers(4)], 8),
    )
    stems = int(draw.integers(9, 17))
    for angle in draw.permutation(np.linspace(-1.15, 1.15, stems)) + draw.normal(0, 0.06, stems):
        reach = draw.uniform(0.5, 0.85)
        tip = np.array([0.475 + 0.5 * reach * np.sin(angle), 0.92 - reach * np.cos(0.7 * angle)])
        middle = np.array([0.475 + 0.16 * reach * np.sin(angle), 0.92 - 0.62 * reach])
        points = [(0.475, 0.94), tuple(middle), tuple(tip)]
        tone = green * draw.uniform(0.7, 1.25)
        if draw.random() < 0.7:
            curve = np.array(
                [
                    (1 - t) ** 2 * np.array(points[0]) + 2 * t * (1 - t) * middle + t**2 * tip
                    for t in np.linspace(0, 1, 9)
                ]
            )
            widths = 0.02 + 0.075 * np.sin(np.pi * np.linspace(0.05, 0.97, 9))
            s.paint(s.limb(list(map(tuple, curve)), list(widths)), tone, round_=0.06)
        else:
            s.paint(s.stroke(points, 0.014, smooth=True), 0.6 * tone)
            _leaves(s, tip + draw.normal(0, 0.05, (9, 2)), 0.045, 1.1 * tone, 0, 1.35)
    s.paint(s.polygon([(0.22, 0.93), (0.73, 0.93), (0.64, 1.33), (0.31, 1.33)]), clay, round_=0.22, grain=0.05)
    s.shadow(s.box(0.2, 0.98, 0.75, 1.03), 0.3)
    s.paint(s.box(0.19, 0.89, 0.76, 0.99, 0.02), 1.06 * clay, round_=0.1)
    s.fade(1.05, 0.88)
    return s.rgba()
