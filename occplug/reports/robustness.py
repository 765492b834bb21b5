"""Curves of `occplug robustness` as a figure for a paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from occplug.errors import DataError
from occplug.reports.charts import style
from occplug.reports.figures import save_sheet
from occplug.utils.texts import read_json

__all__ = ["draw_robustness"]

FIGURES = ("mAP", "Rank-1")
LEGEND = 3  # columns


def _label(model: dict) -> str:
    seeds = f", {model['seeds']} seeds" if model["seeds"] > 1 else ""
    areas = " / ".join(f"{100 * model[name]['area']['difference']:.1f}" for name in FIGURES)
    return f"{model['title']}{seeds} ({areas})"


def _curve(model: dict, name: str) -> list[np.ndarray]:
    """Mean, lower and upper end in per cent at each share."""
    return [100 * np.array([row[key] for row in model[name]["curve"]], float) for key in ("difference", "low", "high")]


def draw_robustness(source: Path, file: Path, width: float = 7.0) -> Path:
    """Draw what `occplug robustness` wrote to `source`: mAP and Rank-1 by covered share, bands are 95 % intervals.

    Args:
        file: .pdf, .svg, .png or .jpg, 300 dpi.   width: in inches.

    Raises:
        DataError: `source` cannot be read.
        ConfigError: another ending.
    """
    try:
        content = read_json(source)
        shares = 100 * np.array(content["shares"], float)
        labels = [_label(model) for model in content["models"]]
        curves = {name: [_curve(model, name) for model in content["models"]] for name in FIGURES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{source}: not what occplug robustness writes ({error})") from error
    figure = Figure(figsize=(width, 0.4 * width + 0.16 * -(-len(labels) // LEGEND)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, 2), FIGURES):
        for number, (label, (mean, low, high)) in enumerate(zip(labels, curves[name])):
            axes.plot(shares, mean, label=label, marker="o", markersize=2.5, linewidth=1.2, **style(number))
            axes.fill_between(shares, low, high, alpha=0.1, linewidth=0, color=style(number)["color"])
        axes.set_xlabel("covered share of the query (%)", fontsize=8)
        axes.set_ylabel(f"{name} (%)", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.5)
    lines = figure.axes[0].get_lines()
    title = f"model (mean {' / '.join(FIGURES)} over the shares)"
    figure.legend(
        handles=lines,
        loc="outside lower center",
        ncols=LEGEND,
        fontsize=7,
        frameon=False,
        title=title,
        title_fontsize=7,
    )
    return save_sheet(figure, file)
