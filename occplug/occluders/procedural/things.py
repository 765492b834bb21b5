"""Drawn things that people carry."""

from __future__ import annotations

import numpy as np

from occplug.occluders.procedural.sketch import Sketch, varied

__all__ = ["backpack", "handbag", "kite", "suitcase", "umbrella"]

CLOTHS = ((38, 40, 48), (120, 30, 36), (36, 66, 116), (54, 84, 60), (140, 104, 66), (190, 178, 156), (150, 84, 30),
          (98, 60, 110), (60, 120, 128), (204, 170, 50))  # fmt: skip


def _cloth(draw: np.random.Generator) -> np.ndarray:
    return varied(draw, CLOTHS[draw.integers(len(CLOTHS))], 8)


def backpack(draw: np.random.Generator, side: int) -> np.ndarray:
    """A backpack with pockets, from behind."""
    s = Sketch(0.62, 0.86, side, draw)
    colour, second = _cloth(draw), _cloth(draw)
    s.paint(
        s.stroke([(0.24, 0.1), (0.26, 0.02), (0.36, 0.02), (0.38, 0.1)], 0.03, smooth=True), 0.6 * colour, round_=0.02
    )
    for x in (0.06, 0.56):
        s.paint(
            s.blob([(x - 0.05, 0.5), (x, 0.44), (x + 0.05, 0.5), (x + 0.05, 0.78), (x - 0.05, 0.78)]),
            0.7 * colour,
            round_=0.06,
        )
    crown = [(0.07, 0.3), (0.16, 0.1), (0.31, 0.06), (0.46, 0.1), (0.55, 0.3)]
    s.paint(s.blob([(0.08, 0.8), *crown, (0.54, 0.8), (0.31, 0.85)]), colour, round_=0.2)
    zip_line = [(0.11, 0.36), (0.2, 0.2), (0.31, 0.17), (0.42, 0.2), (0.51, 0.36)]
    s.paint(s.stroke(zip_line, 0.018, smooth=True), 0.4 * colour)
    s.paint(s.box(0.14, 0.47, 0.48, 0.78, 0.05), 0.6 * colour + 0.4 * second, round_=0.09)
    s.paint(s.stroke([(0.16, 0.54), (0.46, 0.54)], 0.016), 0.35 * colour)
    s.paint(s.box(0.27, 0.62, 0.35, 0.66), (206, 202, 192))
    s.fade(1.1, 0.8)
    return s.rgba()


def handbag(draw: np.random.Generator, side: int) -> np.ndarray:
    """A handbag with a strap, with or without a flap."""
    s = Sketch(0.8, 0.86, side, draw)
    colour = _cloth(draw)
    rise = draw.uniform(0.02, 0.18)
    strap = [(0.18, 0.46), (0.24, rise + 0.08), (0.4, rise), (0.56, rise + 0.08), (0.62, 0.46)]
    s.paint(s.stroke(strap, 0.04, smooth=True), 0.65 * colour, round_=0.03)
    flare = draw.uniform(0.0, 0.1)
    bottom = [(0.76 + flare / 4, 0.78), (0.4, 0.84), (0.04 - flare / 4, 0.78)]
    s.paint(s.blob([(0.1, 0.42), (0.4, 0.38), (0.7, 0.42), *bottom]), colour, round_=0.16)
    if draw.random() < 0.6:
        s.shadow(s.blob([(0.1, 0.42), (0.7, 0.42), (0.7, 0.64), (0.4, 0.7), (0.1, 0.64)]), 0.25)
        s.paint(s.blob([(0.1, 0.4), (0.7, 0.4), (0.69, 0.6), (0.4, 0.66), (0.11, 0.6)]), 0.92 * colour, round_=0.07)
    else:
        s.paint(s.stroke([(0.12, 0.45), (0.68, 0.45)], 0.02), 0.4 * colour)
    s.paint(s.box(0.37, 0.6, 0.43, 0.67, 0.01), (204, 176, 96), round_=0.03)
    s.fade(1.08, 0.8)
    return s.rgba()


def suitcase(draw: np.random.Generator, side: int) -> np.ndarray:
    """A suitcase on wheels, hard or of cloth, its handle out."""
    s = Sketch(0.62, 1.12, side, draw)
    colour = _cloth(draw)
    handle = draw.uniform(0.02, 0.2)
    for x in (0.2, 0.42):
        s.paint(s.stroke([(x, handle + 0.02), (x, 0.34)], 0.022), (160, 162, 166), round_=0.02)
    s.paint(s.stroke([(0.18, handle + 0.02), (0.44, handle + 0.02)], 0.05), (34, 34, 36), round_=0.03)
    for x in (0.12, 0.5):
        s.paint(s.disc(x, 1.06, 0.05), (26, 26, 28), round_=0.03)
    body = s.box(0.03, 0.3, 0.59, 1.06, 0.07)
    across, _ = s.grid()
    hard = draw.random() < 0.6
    ribs: np.ndarray = 1 + (0.16 * np.sin(2 * np.pi * across / 0.08) if hard else 0.05 * s.noise(0.03))
    s.paint(body, colour * np.broadcast_to(ribs, s.shape)[..., None], round_=0.1, grain=0.02)
    if not hard:
        s.paint(s.box(0.1, 0.6, 0.52, 0.98, 0.04), 0.85 * colour, round_=0.06)
    s.paint(s.box(0.22, 0.31, 0.4, 0.36, 0.01), (40, 40, 42), round_=0.03)
    for cx in (0.07, 0.55):
        s.paint(s.box(cx - 0.035, 0.97, cx + 0.035, 1.05, 0.02), (44, 44, 46))
    s.fade(1.08, 0.8)
    return s.rgba()


def umbrella(draw: np.random.Generator, side: int) -> np.ndarray:
    """An open umbrella, a little tilted."""
    s = Sketch(1.2, draw.uniform(0.9, 1.15), side, draw)
    colour, second = _cloth(draw), _cloth(draw)
    bottom = s.shape[0] / s.scale
    s.paint(s.stroke([(0.6, 0.08), (0.6, bottom - 0.12)], 0.022), (66, 60, 56), round_=0.02)
    crook = [(0.6, bottom - 0.14), (0.6, bottom - 0.05), (0.64, bottom - 0.02), (0.68, bottom - 0.06)]
    s.paint(s.stroke(crook, 0.035, smooth=True), (96, 64, 40), round_=0.03)
    rim = 0.5
    edges = np.linspace(0.02, 1.18, 6)
    arch = [(0.6 - 0.58 * np.cos(a), rim - 0.46 * np.sin(a)) for a in np.linspace(0, np.pi, 25)]
    scallops = [
        (x, rim - 0.05 * np.sin(np.pi * ((x - 0.02) / (edges[1] - 0.02) % 1))) for x in np.linspace(1.18, 0.02, 51)
    ]
    canopy = s.polygon(arch + scallops)
    s.paint(canopy, colour, round_=0.4)
    for number, (left, right) in enumerate(zip(edges[:-1], edges[1:])):
        gore = s.blob(
            [(0.6, 0.02), (0.4 * 0.6 + 0.6 * left, 0.2), (left, rim), (right, rim), (0.4 * 0.6 + 0.6 * right, 0.2)]
        )
        if draw.random() < 0.75 and number % 2:
            s.paint(gore * canopy, 0.75 * colour + 0.25 * second, round_=0.12)
        else:
            s.shadow(gore * canopy, 0.1 * number / 5)
    for edge in edges[1:-1]:
        rib = [(0.6, 0.05), (0.45 * 0.6 + 0.55 * edge, 0.2), (edge, rim)]
        s.shadow(s.stroke(rib, 0.012, smooth=True) * canopy, 0.4)
    s.paint(s.stroke([(0.6, 0.0), (0.6, 0.06)], 0.025), (70, 66, 62))
    s.turned(draw.uniform(-12, 12))
    return s.rgba()


def kite(draw: np.random.Generator, side: int) -> np.ndarray:
    """A kite with its tail."""
    s = Sketch(0.8, 1.15, side, draw)
    corners = [(0.4, 0.02), (0.76, 0.36), (0.4, 0.86), (0.04, 0.36)]
    for first, second in zip(corners, corners[1:] + corners[:1]):
        s.paint(s.polygon([first, second, (0.4, 0.36)]), _cloth(draw), round_=0.04)
    s.paint(s.stroke([corners[0], corners[2]], 0.012), (60, 50, 40))
    s.paint(s.stroke([corners[1], corners[3]], 0.012), (60, 50, 40))
    tail = [(0.4, 0.86), (0.46, 0.93), (0.36, 1.0), (0.44, 1.08), (0.4, 1.14)]
    s.paint(s.stroke(tail, 0.014, smooth=True), (80, 70, 60))
    for x, y in tail[1:]:
        s.paint(s.disc(x, y, 0.05, 0.018, 30), _cloth(draw))
    s.turned(draw.uniform(-25, 25))
    return s.rgba()
