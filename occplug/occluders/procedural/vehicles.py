"""Drawn vehicles, seen from the side."""

from __future__ import annotations

import numpy as np

from occplug.occluders.procedural.sketch import Sketch, varied

__all__ = ["bicycle", "bus", "car", "motorcycle", "truck"]

PAINTS = ((186, 190, 196), (34, 36, 42), (140, 24, 30), (28, 62, 128), (224, 224, 220), (88, 94, 100), (24, 80, 58),
          (196, 150, 40), (94, 60, 44), (60, 120, 150))  # fmt: skip
DARK, RUBBER, CHROME, GLASS = (30, 30, 34), (24, 24, 26), (168, 172, 178), (58, 70, 82)


def _paint(draw: np.random.Generator) -> np.ndarray:
    return varied(draw, PAINTS[draw.integers(len(PAINTS))], 8)


def _wheel(s: Sketch, x: float, y: float, radius: float, spokes: int) -> None:
    """A car's wheel: tyre, rim, spokes."""
    s.paint(s.disc(x, y, radius), RUBBER, round_=0.15 * radius)
    s.paint(s.disc(x, y, 0.66 * radius), (52, 53, 56))
    for angle in np.linspace(0, 2 * np.pi, spokes, endpoint=False) + s.draw.random():
        end = (x + 0.6 * radius * np.cos(angle), y + 0.6 * radius * np.sin(angle))
        s.paint(s.stroke([(x, y), end], 0.13 * radius), CHROME, round_=0.05 * radius)
    s.paint(s.disc(x, y, 0.17 * radius), (122, 124, 128), round_=0.1 * radius)


def _window(s: Sketch, mask: np.ndarray) -> None:
    """Dark glass with a slanted reflection."""
    x, y = s.grid()
    s.paint(mask, varied(s.draw, GLASS, 5), grain=0.02)
    slant = (x + 0.6 * y + s.draw.random()) % 0.9
    s.paint(mask * ((slant > 0.3) & (slant < 0.52)), (150, 164, 176), opacity=0.28, grain=0)


def car(draw: np.random.Generator, side: int) -> np.ndarray:
    """A car, from ahead, behind or the side."""
    return _car_from_ahead(draw, side) if draw.random() < 0.5 else _car_from_the_side(draw, side)


def _car_from_ahead(draw: np.random.Generator, side: int) -> np.ndarray:
    """The front of a car, or its back with red lamps."""
    s = Sketch(1.9, draw.uniform(1.45, 1.65), side, draw)
    paint, back = _paint(draw), draw.random() < 0.5
    for x in (0.12, 1.52):
        s.paint(s.box(x, 1.05, x + 0.26, 1.45, 0.05), RUBBER, round_=0.08)
    cabin = [(0.2, 0.7), (0.4, 0.12), (0.6, 0.03), (1.3, 0.03), (1.5, 0.12), (1.7, 0.7)]
    s.paint(s.blob([*cabin, (1.75, 0.9), (0.15, 0.9)]), paint, round_=0.25, grain=0.012)
    _window(s, s.polygon([(0.34, 0.62), (0.5, 0.16), (1.4, 0.16), (1.56, 0.62)]))
    body = [
        (0.06, 1.28),
        (0.05, 0.86),
        (0.22, 0.64),
        (0.95, 0.6),
        (1.68, 0.64),
        (1.85, 0.86),
        (1.84, 1.28),
        (0.95, 1.32),
    ]
    s.paint(s.blob(body), paint, round_=0.3, grain=0.012)
    lamp = (176, 26, 24) if back else (232, 232, 222)
    for sign in (-1, 1):
        s.paint(s.disc(0.95 + sign * 0.68, 0.86, 0.15, 0.075, sign * 14), lamp, round_=0.08)
        s.paint(s.disc(0.95 + sign * 0.83, 0.6, 0.1, 0.07), 0.8 * paint, round_=0.06)
    if not back:
        _, y = s.grid()
        s.paint(s.box(0.56, 0.8, 1.34, 1.0, 0.05), DARK)
        s.paint(s.box(0.6, 0.82, 1.3, 0.98, 0.04) * ((y / 0.045) % 1 < 0.4), CHROME)
    s.paint(s.box(0.14, 1.1, 1.76, 1.28, 0.06), 0.3 * paint + 20, round_=0.06)
    s.paint(s.box(0.68, 1.04, 1.22, 1.15, 0.01), (222, 222, 214))
    s.paint(s.stroke([(0.74, 1.095), (1.16, 1.095)], 0.04), (70, 70, 74), opacity=0.7)
    s.fade(1.1, 0.8)
    return s.rgba()


def _car_from_the_side(draw: np.random.Generator, side: int) -> np.ndarray:
    s = Sketch(4.3, 1.62, side, draw)
    paint, roof, nose = _paint(draw), draw.uniform(0.0, 0.14), draw.uniform(0.78, 0.9)
    rear = draw.uniform(0.22, 0.62)  # where the roof begins: estate or saloon
    outline = [(0.06, 1.24), (0.05, 0.86), (rear - 0.1, 0.62), (rear + 0.42, 0.1 + roof), (1.5, 0.04 + roof),
               (2.3, 0.06 + roof), (3.0, 0.6), (3.7, nose - 0.12), (4.18, nose + 0.06), (4.25, 1.24), (4.1, 1.34),
               (0.2, 1.34)]  # fmt: skip
    body = s.blob(outline)
    s.paint(body, paint, round_=0.34, grain=0.012)
    x, y = s.grid()
    s.paint(body * (np.abs(y - 0.93) < 0.05), (255, 255, 255), opacity=0.14, grain=0)  # the shoulder catches the sky
    s.paint(body * (y > 1.18), 0.35 * paint, grain=0.02)
    middle = draw.uniform(1.55, 1.75)
    _window(s, s.polygon([(rear + 0.24, 0.62), (rear + 0.52, 0.2 + roof), (middle, 0.15 + roof), (middle, 0.62)]))
    _window(s, s.polygon([(middle + 0.09, 0.62), (middle + 0.09, 0.15 + roof), (2.24, 0.17 + roof), (2.84, 0.62)]))
    for door in (middle + 0.045, 2.86, rear + 0.3):
        s.paint(s.stroke([(door, 0.62), (door - 0.02, 1.18)], 0.018), 0.45 * paint)
    for handle in (middle - 0.3, 2.0):
        s.paint(s.box(handle, 0.76, handle + 0.2, 0.8), 0.6 * paint)
    s.paint(s.blob([(3.98, nose), (4.2, nose + 0.03), (4.22, nose + 0.14), (3.95, nose + 0.1)]), (236, 234, 214))
    s.paint(s.box(0.06, 0.82, 0.2, 1.0, 0.04), (150, 20, 18))
    s.paint(s.disc(2.78, 0.66, 0.1, 0.06), 0.8 * paint, round_=0.05)
    spokes = int(draw.integers(5, 11))
    for wheel in (0.86, 3.42):
        s.shadow(s.disc(wheel, 1.26, 0.39), 0.85)
        _wheel(s, wheel, 1.28, 0.33, spokes)
    s.fade(1.1, 0.82)
    return s.rgba()


def _long_body(s: Sketch, length: float, top: float, paint: np.ndarray) -> np.ndarray:
    body = s.box(0.05, top, length - 0.05, 2.62, 0.16)
    s.paint(body, paint, round_=0.3, grain=0.012)
    return body


def bus(draw: np.random.Generator, side: int) -> np.ndarray:
    """A bus from the side."""
    s = Sketch(6.4, 3.0, side, draw)
    paint, stripe = _paint(draw), _paint(draw)
    body = _long_body(s, 6.4, 0.05, paint)
    _, y = s.grid()
    s.paint(body * (np.abs(y - draw.uniform(1.75, 2.1)) < draw.uniform(0.08, 0.22)), stripe)
    for left in np.arange(0.3, 4.9, 0.98):
        _window(s, s.box(left, 0.5, left + 0.86, 1.48, 0.06))
    _window(s, s.box(5.24, 0.42, 5.9, 2.5, 0.05))
    s.paint(s.stroke([(5.57, 0.42), (5.57, 2.5)], 0.04), DARK)
    _window(s, s.box(6.0, 0.5, 6.3, 1.6, 0.06))
    s.paint(body * (y > 2.45), 0.4 * paint)
    for wheel in (1.3, 4.7):
        s.shadow(s.disc(wheel, 2.5, 0.5), 0.85)
        _wheel(s, wheel, 2.54, 0.42, 8)
    s.fade()
    return s.rgba()


def truck(draw: np.random.Generator, side: int) -> np.ndarray:
    """A truck with a closed body, from the side."""
    s = Sketch(6.0, 2.9, side, draw)
    paint, load = _paint(draw), varied(draw, (206, 206, 200), 6)
    s.paint(s.box(0.1, 2.1, 5.8, 2.4), DARK)
    cargo = s.box(0.05, 0.05, 4.25, 2.15, 0.05)
    x, y = s.grid()
    ribs = 1 - 0.1 * ((x / draw.uniform(0.16, 0.4)) % 1 < 0.2)
    s.paint(cargo, load * np.broadcast_to(ribs, s.shape)[..., None], round_=0.15)
    s.paint(cargo * (np.abs(y - 1.1) < draw.uniform(0.12, 0.4)) * (np.abs(x - 2.1) < 1.4), _paint(draw))
    cab = s.blob([(4.4, 2.35), (4.4, 0.75), (4.75, 0.55), (5.3, 0.6), (5.75, 1.4), (5.88, 1.65), (5.88, 2.35)])
    s.paint(cab, paint, round_=0.25, grain=0.012)
    _window(s, s.polygon([(4.7, 1.36), (4.75, 0.76), (5.22, 0.78), (5.56, 1.36)]))
    s.paint(s.stroke([(4.66, 0.9), (4.66, 2.2)], 0.02), 0.5 * paint)
    s.paint(s.box(5.66, 1.8, 5.86, 1.98, 0.04), (236, 232, 210))
    for wheel in (0.9, 1.75, 5.0):
        s.shadow(s.disc(wheel, 2.4, 0.46), 0.85)
        _wheel(s, wheel, 2.44, 0.41, 8)
    s.fade()
    return s.rgba()


def _spoked(s: Sketch, x: float, y: float, radius: float) -> None:
    """A bicycle's wheel, which can be seen through."""
    for angle in np.linspace(0, np.pi, 9, endpoint=False) + s.draw.random():
        reach = radius * np.array([np.cos(angle), np.sin(angle)])
        s.paint(s.stroke([(x, y) - reach, (x, y) + reach], 0.008), CHROME, grain=0)
    ring = np.clip(s.disc(x, y, radius) - s.disc(x, y, radius - 0.045), 0, 1)
    s.paint(ring, RUBBER, round_=0.03)
    rim = np.clip(s.disc(x, y, radius - 0.04) - s.disc(x, y, radius - 0.062), 0, 1)
    s.paint(rim, CHROME, grain=0)
    s.paint(s.disc(x, y, 0.035), (110, 112, 116))


def bicycle(draw: np.random.Generator, side: int) -> np.ndarray:
    """A bicycle, with or without basket and bag."""
    s = Sketch(1.8, 1.12, side, draw)
    colour = _paint(draw)
    rear, front, ground = (0.36, 0.76), (1.44, 0.76), 0.33
    step = draw.random() < 0.4  # a step-through frame
    crank, seat, head = (0.82, 0.8), (0.68, 0.34), (1.27, 0.3)
    low = (1.3, 0.42)
    for mud in (rear, front):
        _spoked(s, *mud, ground)
    if draw.random() < 0.7:
        guard = [(rear[0] + 0.37 * np.cos(a), rear[1] + 0.37 * np.sin(a)) for a in np.linspace(-2.9, -0.9, 8)]
        s.paint(s.stroke(guard, 0.035), 0.5 * colour, round_=0.02)
    s.paint(s.stroke([rear, crank], 0.03), colour, round_=0.02)
    s.paint(s.stroke([rear, seat], 0.028), colour, round_=0.02)
    s.paint(s.stroke([crank, (0.64, 0.22)], 0.042), colour, round_=0.03)
    s.paint(s.stroke([crank, low], 0.048), colour, round_=0.03)
    s.paint(s.stroke([(0.75, 0.55), low] if step else [seat, head], 0.044), colour, round_=0.03)
    s.paint(s.stroke([(1.25, 0.2), (1.33, 0.46), front], 0.045), colour, round_=0.03)
    s.paint(s.stroke([(1.25, 0.2), (1.22, 0.13), (1.3, 0.1), (1.36, 0.13)], 0.036, smooth=True), DARK, round_=0.02)
    s.paint(s.stroke([(1.2, 0.14), (1.1, 0.14)], 0.05), RUBBER, round_=0.03)
    s.paint(
        s.blob([(0.48, 0.2), (0.55, 0.14), (0.68, 0.17), (0.8, 0.18), (0.7, 0.22), (0.56, 0.24)]), DARK, round_=0.04
    )
    s.paint(np.clip(s.disc(*crank, 0.1) - s.disc(*crank, 0.06), 0, 1), CHROME)
    turn = draw.uniform(0, np.pi)
    arm = 0.16 * np.array([np.cos(turn), np.sin(turn)])
    s.paint(s.stroke([crank - arm, crank + arm], 0.03), (90, 92, 96))
    for end in (crank - arm, crank + arm):
        s.paint(s.stroke([end - (0.05, 0), end + (0.05, 0)], 0.035), RUBBER)
    if draw.random() < 0.5:
        _basket(s, 1.32, 0.16)
    if draw.random() < 0.5:
        s.paint(s.stroke([(0.2, 0.4), (0.62, 0.4)], 0.025), DARK)
        if draw.random() < 0.6:
            s.paint(s.box(0.18, 0.42, 0.5, 0.74, 0.04), varied(draw, (90, 80, 60), 30), round_=0.06)
    return s.rgba()


def _basket(s: Sketch, x: float, y: float) -> None:
    mask = s.polygon([(x, y), (x + 0.36, y), (x + 0.31, y + 0.26), (x + 0.05, y + 0.26)])
    gx, gy = s.grid()
    wires = ((gx / 0.05) % 1 < 0.35) | ((gy / 0.05) % 1 < 0.35)
    s.paint(mask * wires, varied(s.draw, (120, 100, 76), 20), grain=0.05)
    s.paint(s.stroke([(x, y), (x + 0.36, y)], 0.03), (60, 54, 46), round_=0.02)


def motorcycle(draw: np.random.Generator, side: int) -> np.ndarray:
    """A motorcycle, with or without windscreen."""
    s = Sketch(2.15, 1.25, side, draw)
    colour = _paint(draw)
    for x in (0.42, 1.72):
        ring = np.clip(s.disc(x, 0.86, 0.36) - s.disc(x, 0.86, 0.21), 0, 1)
        s.paint(ring, RUBBER, round_=0.06)
        for angle in np.linspace(0, np.pi, 5, endpoint=False) + draw.random():
            reach = 0.24 * np.array([np.cos(angle), np.sin(angle)])
            s.paint(s.stroke([(x, 0.86) - reach, (x, 0.86) + reach], 0.035), CHROME, round_=0.02)
        s.paint(s.disc(x, 0.86, 0.1), (96, 98, 102), round_=0.05)
    s.paint(s.stroke([(1.44, 0.26), (1.72, 0.86)], 0.07), CHROME, round_=0.05)
    s.paint(s.stroke([(0.42, 0.86), (0.95, 0.82)], 0.07), (70, 72, 76), round_=0.04)
    engine = s.blob([(0.74, 0.6), (1.1, 0.52), (1.36, 0.62), (1.3, 0.98), (1.0, 1.06), (0.74, 0.96)])
    _, y = s.grid()
    fins = np.broadcast_to(1 - 0.45 * ((y / 0.05) % 1 < 0.4), s.shape)
    s.paint(engine, np.array((96, 98, 102), np.float32) * fins[..., None], round_=0.12)
    s.paint(s.disc(1.08, 0.84, 0.14), (136, 138, 142), round_=0.08)
    s.paint(s.limb([(1.1, 1.02), (0.6, 1.03), (0.16, 0.96)], [0.07, 0.1, 0.13]), CHROME, round_=0.08)
    s.paint(
        s.blob([(0.92, 0.42), (1.1, 0.22), (1.4, 0.24), (1.48, 0.42), (1.3, 0.56), (0.98, 0.56)]), colour, round_=0.16
    )
    s.paint(s.blob([(0.12, 0.4), (0.42, 0.33), (0.7, 0.4), (0.98, 0.36), (0.96, 0.5), (0.6, 0.56), (0.2, 0.5)]), DARK,
            round_=0.1)  # fmt: skip
    s.paint(s.blob([(0.1, 0.48), (0.5, 0.56), (0.74, 0.58), (0.7, 0.66), (0.3, 0.62)]), colour, round_=0.08)
    guard = [(1.72 + 0.4 * np.cos(a), 0.86 + 0.4 * np.sin(a)) for a in np.linspace(-2.7, -0.7, 9)]
    s.paint(s.stroke(guard, 0.07), colour, round_=0.05)
    s.paint(s.stroke([(1.44, 0.26), (1.36, 0.12), (1.22, 0.1)], 0.045, smooth=True), DARK, round_=0.03)
    s.paint(s.disc(1.54, 0.3, 0.11, 0.12), (214, 214, 204), round_=0.08)
    if draw.random() < 0.5:
        s.paint(s.blob([(1.42, 0.24), (1.5, 0.02), (1.6, 0.0), (1.58, 0.2)]), (120, 134, 144), opacity=0.75)
    s.fade(1.08, 0.85)
    return s.rgba()
