"""The sheet of an occluder library: every category with some of its cut-outs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from occplug.errors import ConfigError
from occplug.occluders import Cutout, Library
from occplug.utils.plotting import STYLE, check_ending, save_figure

__all__ = ["draw_library", "strip"]

CELL = 96  # pixels a side of a cut-out's place
GROUND = 236  # grey behind cut-outs
BLOCKS = 2  # categories beside each other
DPI = 150


def draw_library(library: Library, file: Path, columns: int = 6, width: float = 7.0) -> Path:
    """Draw the sheet of `library` into `file` (.pdf, .svg, .png or .jpg).

    Over the cut-outs of a category stand its name, how many it has, where it is placed and what share of an image it
    is to hide.

    Args:
        columns: cut-outs of each category, spread evenly over those it has.
        width: of the figure, in inches.

    Raises:
        ConfigError: another ending, or fewer than one column.
        OutputError: the file cannot be written.
    """
    check_ending(file)
    if columns < 1 or width <= 0:
        raise ConfigError("--columns is at least 1, and --width above 0")
    names = [name for name in library.table if name in library.by_category]
    rows = -(-len(names) // BLOCKS)
    with rc_context(STYLE):
        figure = Figure(figsize=(width, rows * (0.2 + width / BLOCKS / columns)), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, BLOCKS, squeeze=False).T.flatten()
        for axis in axes:
            axis.set_axis_off()
        for axis, name in zip(axes, names):
            cutouts, row = library.by_category[name], library.table[name]
            axis.imshow(strip(cutouts, columns), interpolation="antialiased")
            title = f"{name}: {len(cutouts)}, {row.anchor}, {100 * row.cover[0]:.0f} to {100 * row.cover[1]:.0f} %"
            axis.set_title(title, fontsize=7, pad=2, loc="left")
        words = ", ".join(f"{name} {len(library.by_category[name])}" for name in names)
        return save_figure(figure, file, f"{len(library)} cut-outs: {words}")


def strip(cutouts: list[Cutout], columns: int) -> np.ndarray:
    """uint8 [CELL, columns * CELL, 3]: up to `columns` of `cutouts`, spread evenly, each as large as its place."""
    picture = np.full((CELL, columns * CELL, 3), GROUND, np.uint8)
    count = min(columns, len(cutouts))
    chosen = np.linspace(0, len(cutouts) - 1, count).round().astype(int)
    for place, index in enumerate(chosen):
        rgba = cutouts[index].rgba
        scale = (CELL - 6) / max(rgba.shape[:2])
        size = [max(1, round(side * scale)) for side in rgba.shape[:2]]
        small = cv2.resize(rgba, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
        top, left = (CELL - size[0]) // 2, place * CELL + (CELL - size[1]) // 2
        area = picture[top : top + size[0], left : left + size[1]]
        area[:] = (small[..., :3] + area * (1 - small[..., 3:] / 255)).round().clip(0, 255)  # colours have their alpha
    return picture
