"""Curves of `occplug robustness` as a figure for a paper."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from occplug.errors import DataError
from occplug.reports.charts import style
from occplug.reports.figures import save_figure
from occplug.utils.texts import read_json

__all__ = ["draw_robustness"]


FIGURES = ("mAP", "Rank-1")


def _curve(model: dict, name: str) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """Label of a model, and mean, lower and upper end in per cent at each share."""
    rows = model[name]["curve"]
    ends = (100 * np.array([row[key] for row in rows], float) for key in ("difference", "low", "high"))
    seeds = f", {model['seeds']} seeds" if model["seeds"] > 1 else ""
    mean, low, high = ends
    return f"{model['title']}{seeds} ({100 * model[name]['area']['difference']:.1f})", mean, low, high


def draw_robustness(source: Path, file: Path, width: float = 7.0) -> Path:
    """Draw what `occplug robustness` wrote to `source`: mAP and Rank-1 by covered share, bands are 95 % intervals.

    Args:
        file: .pdf, .svg or .png, 300 dpi.   width: in inches.

    Raises:
        DataError: `source` cannot be read.
        ConfigError: another ending.
    """
    try:
        content = read_json(source)
        shares = 100 * np.array(content["shares"], float)
        rows = {name: [_curve(model, name) for model in content["models"]] for name in FIGURES}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{source}: not what occplug robustness writes ({error})") from error
    figure = Figure(figsize=(width, 0.46 * width), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, 2), FIGURES):
        for number, (label, mean, low, high) in enumerate(rows[name]):
            axes.plot(shares, mean, label=label, marker="o", markersize=2.5, linewidth=1.2, **style(number))
            axes.fill_between(shares, low, high, alpha=0.12, linewidth=0, color=style(number)["color"])
        axes.set(xlabel="covered share of the query (%)", ylabel=f"{name} (%)")
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=6, frameon=False, title="model (area)", title_fontsize=6)
    return save_figure(figure, file)
