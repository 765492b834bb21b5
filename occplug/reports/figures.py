"""Ranked galleries as a figure for a paper: a query beside its nearest images, one row a model."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from occplug.errors import ConfigError
from occplug.reports.rankings import Ranking
from occplug.utils.imagefile import open_picture
from occplug.utils.plotting import COLORS, check_ending, save_figure

__all__ = ["RIGHT", "WRONG", "draw_picture", "draw_rankings", "save_sheet"]

RIGHT = {"color": COLORS[0], "linestyle": "-"}
WRONG = {"color": COLORS[1], "linestyle": "--"}  # dashed as well
DPI = 300
ASPECT = 2.0  # height over width of a picture's place


def draw_rankings(ranked: list[Ranking], queries: list[int], file: Path, columns: int = 5, width: float = 7.0) -> Path:
    """Write the figure `file` (.pdf, .svg, .png or .jpg): for each query a row a model, right matches in solid blue
    frames and wrong ones in dashed orange; the distance stands over each, the average precision before each row.

    Args:
        ranked: of the same queries.
        queries: rows of `ranked` to draw.
        columns: nearest images of each query.
        width: of the figure, in inches.

    Raises:
        ConfigError: another ending, or no query.
        OutputError: the file cannot be written.
    """
    check_ending(file)
    if not queries:
        raise ConfigError("--queries names no query")
    rows = len(queries) * len(ranked)
    height = rows * width / (columns + 1.6) * ASPECT * 1.12
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns + 1, squeeze=False, gridspec_kw={"wspace": 0.08, "hspace": 0.16})
    for place, (query, ranking) in enumerate((query, ranking) for query in queries for ranking in ranked):
        _row(grid[place], ranking, query)
    return save_sheet(figure, file)


def save_sheet(figure: Figure, file: Path) -> Path:
    """`save_figure` without margins, and with 300 dpi where the file has pixels."""
    return save_figure(figure, file, dpi=DPI, bbox_inches="tight")


def _row(axes, ranking: Ranking, query: int) -> None:
    draw_picture(axes[0], open_picture(ranking.query_paths[query]), "query")
    axes[0].set_ylabel(f"{ranking.title}\nAP {100 * ranking.result.ap[query]:.0f} %", fontsize=7)
    for axis, image, distance in zip(axes[1:], ranking.nearest[query], ranking.distances[query]):
        if image < 0:
            axis.set_axis_off()
            continue
        is_right = ranking.g_pids[image] == ranking.q_pids[query]
        picture = open_picture(ranking.gallery_paths[image])
        draw_picture(axis, picture, f"{distance:.2f}", RIGHT if is_right else WRONG)
    for axis in axes[1 + len(ranking.nearest[query]) :]:
        axis.set_axis_off()


def draw_picture(axis, picture, title: str, frame: dict | None = None) -> None:
    """`picture` in a place of one aspect; `frame` is RIGHT or WRONG, None a thin black line."""
    axis.imshow(picture, aspect="auto", interpolation="antialiased")
    axis.set_box_aspect(ASPECT)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=6, pad=2)
    for spine in axis.spines.values():
        spine.set(**({"color": "black", "linewidth": 0.6} if frame is None else {"linewidth": 2.2, **frame}))
