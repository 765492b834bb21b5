"""Small libraries for tests."""

import numpy as np

from occplug.occluders import Piece, write_library


def solid(height=60, width=40, colour=(200, 40, 120), alpha=255):
    """RGBA of one colour, opaque everywhere."""
    return np.full((height, width, 4), (*colour, alpha), np.uint8)


def disc(size=81, colour=(22, 22, 22), outside=255):
    """An opaque disc whose transparent surroundings have the colour `outside`, as white as scissors leave them."""
    y, x = np.mgrid[:size, :size] - size // 2
    inside = x**2 + y**2 <= (size // 2) ** 2
    rgba = np.full((size, size, 4), outside, np.uint8)
    rgba[inside] = (*colour, 255)
    rgba[~inside, 3] = 0
    return rgba


def library(folder, **pieces):
    """Write a library of category -> RGBA, or a list of them; `fire_hydrant` is the category "fire hydrant"."""
    rows = [
        Piece(name.replace("_", " "), rgba)
        for name, given in pieces.items()
        for rgba in (given if isinstance(given, list) else [given])
    ]
    write_library(folder, rows)
    return str(folder)
