"""Occluders as cut-outs: small premultiplied RGBA pictures of things that stand in front of people.

cv2 draws anti-aliased lines on all four channels alike, so drawing opaque colours on zeros gives premultiplied alpha.
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["SHAPES"]

_PAINTS = (
    (196, 198, 202), (40, 42, 46), (120, 22, 28), (34, 60, 120), (230, 230, 226), (96, 100, 104), (30, 84, 52),
)  # fmt: skip


def _blank(height: float, width: float) -> np.ndarray:
    return np.zeros((max(4, round(height)), max(4, round(width)), 4), np.uint8)


def _rgba(color) -> tuple[float, float, float, float]:
    return (*np.clip(color, 0, 255).tolist(), 255.0)


def _tone(draw: np.random.Generator, low: float = 40, high: float = 200) -> np.ndarray:
    """A random colour of some saturation."""
    return np.clip(draw.uniform(low, high) + draw.normal(0, 38, 3), 10, 245)


def _polygon(picture: np.ndarray, points, color) -> None:
    scale = np.array(picture.shape[1::-1]) - 1
    cv2.fillPoly(picture, [np.round(np.array(points) * scale).astype(np.int32)], _rgba(color), cv2.LINE_AA)


def _box(picture: np.ndarray, x0: float, y0: float, x1: float, y1: float, color) -> None:
    """A filled rectangle; corners as shares of width and height."""
    h, w = picture.shape[:2]
    cv2.rectangle(picture, (round(x0 * w), round(y0 * h)), (round(x1 * w) - 1, round(y1 * h) - 1), _rgba(color), -1)


def _shade(picture: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Multiply the colours by `factor`, broadcast to [h, w], and keep them below alpha."""
    lit = picture[..., :3] * np.broadcast_to(factor, picture.shape[:2])[..., None].astype(np.float32)
    picture[..., :3] = np.minimum(lit, picture[..., 3:])
    return picture


def _cylinder(width: int, azimuth: float) -> np.ndarray:
    """Shading across a vertical cylinder lit from `azimuth`, [1, width]."""
    angle = np.arcsin(np.linspace(-0.97, 0.97, width))
    return (0.55 + 0.5 * np.maximum(0, np.cos(angle - azimuth)))[None]


def _car(draw: np.random.Generator, size: float, azimuth: float) -> np.ndarray:
    picture = _blank(0.62 * size, 1.7 * size)
    h, w = picture.shape[:2]
    paint = np.array(_PAINTS[draw.integers(len(_PAINTS))], np.float32) + draw.normal(0, 6, 3)
    body = [(0.005, 0.58), (0.03, 0.44), (0.18, 0.38), (0.31, 0.07), (0.38, 0.01), (0.66, 0.01), (0.74, 0.06),
            (0.84, 0.37), (0.96, 0.43), (0.995, 0.6), (0.99, 0.84), (0.01, 0.84)]  # fmt: skip
    _polygon(picture, body, paint)
    glass = np.array([52, 62, 72]) + draw.normal(0, 8, 3)
    _polygon(picture, [(0.23, 0.38), (0.33, 0.1), (0.5, 0.08), (0.5, 0.38)], glass)
    _polygon(picture, [(0.53, 0.38), (0.53, 0.08), (0.67, 0.09), (0.79, 0.38)], glass)
    _shade(picture, np.linspace(1.12, 0.72, h)[:, None])
    for x in (0.51, 0.22, 0.8):
        cv2.line(picture, (int(x * w), int(0.4 * h)), (int(x * w), int(0.8 * h)), _rgba(0.6 * paint), 1, cv2.LINE_AA)
    for x in (0.19, 0.81):
        center = (int(x * w), int(0.8 * h))
        for radius, color in ((0.195, (22, 22, 24)), (0.115, (150, 152, 156)), (0.045, (60, 60, 62))):
            cv2.circle(picture, center, int(radius * h), _rgba(color), -1, cv2.LINE_AA)
    return picture


def _bicycle(draw: np.random.Generator, size: float, azimuth: float) -> np.ndarray:
    picture = _blank(0.58 * size, 0.95 * size)
    h, w = picture.shape[:2]
    color = _rgba(_tone(draw, 30, 170))
    dark, metal = _rgba((26, 26, 28)), _rgba((150, 150, 152))
    radius, thick = int(0.27 * h), max(2, round(0.021 * size))
    rear, front = (int(0.19 * w), int(0.69 * h)), (int(0.81 * w), int(0.69 * h))
    for center in (rear, front):
        for angle in np.linspace(0, np.pi, 7)[:-1] + draw.random():
            dx, dy = int(radius * np.cos(angle)), int(radius * np.sin(angle))
            cv2.line(picture, (center[0] - dx, center[1] - dy), (center[0] + dx, center[1] + dy), metal, 1, cv2.LINE_AA)
        cv2.circle(picture, center, radius, dark, thick, cv2.LINE_AA)
    crank, seat, bar = (int(0.44 * w), int(0.72 * h)), (int(0.36 * w), int(0.27 * h)), (int(0.7 * w), int(0.25 * h))
    for p, q in ((rear, crank), (rear, seat), (seat, crank), (crank, bar), (seat, bar), (bar, front)):
        cv2.line(picture, p, q, color, thick + 1, cv2.LINE_AA)
    cv2.line(picture, bar, (int(0.66 * w), int(0.1 * h)), dark, thick, cv2.LINE_AA)
    cv2.line(picture, (int(0.6 * w), int(0.1 * h)), (int(0.72 * w), int(0.08 * h)), dark, thick, cv2.LINE_AA)
    cv2.line(picture, (int(0.29 * w), int(0.22 * h)), (int(0.42 * w), int(0.22 * h)), dark, 2 * thick, cv2.LINE_AA)
    if draw.random() < 0.5:
        _box(picture, 0.72, 0.08, 0.96, 0.34, _tone(draw, 60, 160))
        for y in (0.15, 0.22, 0.29):
            _box(picture, 0.73, y, 0.95, y + 0.025, (50, 44, 38))
    return picture


def _plant(draw: np.random.Generator, size: float, azimuth: float) -> np.ndarray:
    picture = _blank(draw.uniform(0.35, 0.75) * size, draw.uniform(0.4, 0.8) * size)
    h, w = picture.shape[:2]
    green = np.array([46.0, 96.0, 40.0]) + draw.normal(0, 12, 3)
    leaves = draw.random((int(draw.integers(110, 190)), 5))
    leaves[:, 1] = 1 - 0.97 * leaves[:, 1] ** 1.6  # denser below
    for x, y, long, turn, tone in leaves[leaves[:, 1].argsort()]:
        reach = 0.16 + 0.34 * np.sqrt(y)  # half-width of the bush at this height
        axes = (max(2, int((0.025 + 0.03 * long) * size)), max(1, int((0.011 + 0.012 * long) * size)))
        center = (int((0.5 + reach * (2 * x - 1)) * w), int(y * h))
        cv2.ellipse(picture, center, axes, 180 * turn, 0, 360, _rgba(green * (0.5 + 0.95 * tone)), -1, cv2.LINE_AA)
    return picture


def _cartons(draw: np.random.Generator, size: float, azimuth: float) -> np.ndarray:
    picture = _blank(draw.uniform(0.3, 0.62) * size, draw.uniform(0.3, 0.55) * size)
    count = int(draw.integers(1, 4))
    edges = np.linspace(0, 1, count + 1)
    for top, bottom in zip(edges[:-1], edges[1:]):
        left, right = draw.uniform(0, 0.1), draw.uniform(0.9, 1)
        card = np.array([158.0, 122.0, 84.0]) * draw.uniform(0.55, 1.15) + draw.normal(0, 6, 3)
        _box(picture, left, top, right, bottom, 0.7 * card)
        _box(picture, left + 0.01, top + 0.015, right - 0.01, bottom - 0.01, card)
        _box(picture, left + 0.02, (top + bottom) / 2 - 0.02, right - 0.02, (top + bottom) / 2 + 0.02, 1.2 * card)
        x = draw.uniform(left + 0.05, right - 0.3)
        _box(picture, x, top + 0.04, x + 0.2, top + 0.04 + 0.25 * (bottom - top), (222, 220, 212))
    return _shade(picture, np.linspace(1.08, 0.88, len(picture))[:, None])


def _pole(draw: np.random.Generator, size: float, azimuth: float) -> np.ndarray:
    picture = _blank(1.3 * size, draw.uniform(0.07, 0.16) * size)
    picture[:] = _rgba(_tone(draw, 60, 190))
    if draw.random() < 0.4:
        second, band = _rgba(_tone(draw)), max(3, int(draw.uniform(0.06, 0.13) * size))
        picture[(np.arange(len(picture)) // band) % 2 == 0] = second
    return _shade(picture, _cylinder(picture.shape[1], azimuth))


def _wall(draw: np.random.Generator, size: float, azimuth: float) -> np.ndarray:
    picture = _blank(1.3 * size, 0.75 * size)
    h, w = picture.shape[:2]
    row = max(4, round(draw.uniform(0.03, 0.055) * size))
    y, x = np.mgrid[:h, :w]
    course = y // row
    brick = (x + (course % 2) * row) // (2 * row)
    tone = draw.normal(0, 10, (course.max() + 1, brick.max() + 1))[course, brick]
    joint = (y % row == 0) | ((x + (course % 2) * row) % (2 * row) == 0)
    color = _tone(draw, 70, 160) + np.where(joint, draw.uniform(-30, 30), tone)[..., None]
    picture[..., :3], picture[..., 3] = np.clip(color, 0, 255), 255
    picture[:, -max(2, w // 40) :, :3] = picture[:, -max(2, w // 40) :, :3] * 0.7  # the corner
    return picture


def _umbrella(draw: np.random.Generator, size: float, azimuth: float) -> np.ndarray:
    picture = _blank(0.5 * size, 0.8 * size)
    h, w = picture.shape[:2]
    color, center = _tone(draw, 40, 180), (w // 2, h - 1)
    ribs = np.linspace(180, 360, 7)
    for start, end, tone in zip(ribs[:-1], ribs[1:], draw.uniform(0.72, 1.1, 6)):
        axes = (w // 2 - 1, h - 2)
        cv2.ellipse(picture, center, axes, 0, start, end, _rgba(color * tone), -1, cv2.LINE_AA)
    for angle in np.deg2rad(ribs[1:-1]):
        tip = (int(center[0] + (w // 2) * np.cos(angle)), int(center[1] + (h - 2) * np.sin(angle)))
        cv2.line(picture, (w // 2, int(0.04 * h)), tip, _rgba(0.6 * color), 1, cv2.LINE_AA)
    return _clip_dome(picture)


def _clip_dome(picture: np.ndarray) -> np.ndarray:
    """Cut away what the ribs drew outside the dome."""
    h, w = picture.shape[:2]
    y, x = np.mgrid[:h, :w]
    outside = ((x - w / 2) / (w / 2)) ** 2 + ((y - h + 1) / (h - 1)) ** 2 > 1
    picture[outside] = 0
    return picture


def _fence(draw: np.random.Generator, size: float, azimuth: float) -> np.ndarray:
    picture = _blank(draw.uniform(0.35, 0.6) * size, 0.9 * size)
    color = _tone(draw, 50, 190)
    bars, width = int(draw.integers(9, 15)), draw.uniform(0.4, 0.62)
    for i in range(bars):
        _box(picture, i / bars, 0.02, (i + width) / bars, 1, color * draw.uniform(0.85, 1.05))
    for y in (0.12, 0.76):
        _box(picture, 0, y, 1, y + 0.1, 0.85 * color)
    return picture


def _sign(draw: np.random.Generator, size: float, azimuth: float) -> np.ndarray:
    side = draw.uniform(0.28, 0.5) * size
    picture = _blank(side, side)
    panel, text = _tone(draw, 40, 170), _tone(draw, 60, 240)
    _box(picture, 0, 0, 1, 1, 0.55 * panel)
    _box(picture, 0.05, 0.05, 0.95, 0.95, panel)
    for y in np.arange(0.16, 0.82, draw.uniform(0.13, 0.2)):
        _box(picture, 0.14, y, draw.uniform(0.5, 0.88), y + 0.06, text)
    return picture


def _bin(draw: np.random.Generator, size: float, azimuth: float) -> np.ndarray:
    picture = _blank(draw.uniform(0.32, 0.46) * size, draw.uniform(0.22, 0.34) * size)
    color = _tone(draw, 35, 140)
    _polygon(picture, [(0.04, 0.1), (0.96, 0.1), (0.9, 1), (0.1, 1)], color)
    for y in (0.3, 0.55, 0.8):
        _box(picture, 0.09, y, 0.91, y + 0.03, 0.75 * color)
    _box(picture, 0, 0.02, 1, 0.14, 0.7 * color)
    return _shade(picture, _cylinder(picture.shape[1], azimuth))


def _suitcase(draw: np.random.Generator, size: float, azimuth: float) -> np.ndarray:
    picture = _blank(draw.uniform(0.3, 0.42) * size, draw.uniform(0.2, 0.3) * size)
    color = _tone(draw, 35, 170)
    for x in (0.3, 0.66):
        _box(picture, x, 0, x + 0.05, 0.3, (96, 98, 100))
    _box(picture, 0.28, 0, 0.73, 0.05, (60, 60, 62))
    _box(picture, 0.02, 0.22, 0.98, 0.95, color)
    for x in np.arange(0.12, 0.9, 0.13):
        _box(picture, x, 0.26, x + 0.04, 0.91, 0.72 * color)
    for x in (0.1, 0.78):
        _box(picture, x, 0.95, x + 0.12, 1, (24, 24, 26))
    return _shade(picture, np.linspace(1.1, 0.85, len(picture))[:, None])


# category -> drawing of (random stream, frame height in pixels times the size factor, light azimuth)
# -> uint8 [h, w, 4]; the twelfth category, another person, is painted by `occluder`.
SHAPES = {
    "car": _car, "bicycle": _bicycle, "plant": _plant, "box": _cartons, "pole": _pole, "wall": _wall,
    "umbrella": _umbrella, "fence": _fence, "sign": _sign, "bin": _bin, "suitcase": _suitcase,
}  # fmt: skip
