"""The page's drawings that do not answer to a mouse: curves as SVG."""

from __future__ import annotations

import base64
import io

import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from occplug.evaluation import PerQuery
from occplug.reports.curves import Curves
from occplug.utils.plotting import COLORS

__all__ = ["cmc_chart", "curve_charts", "occlusion_chart", "style"]

STYLES = ("-", "--", "-.", ":")
RANKS = 20  # of a CMC
EDGES = np.linspace(0, 1, 11)  # of occluded shares
DRAWS = 1000  # of a bootstrap interval


def style(number: int) -> dict:
    """Colour and dashes of line `number`; the second round of colours has other dashes."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": STYLES[number // len(COLORS) % len(STYLES)]}


def curve_charts(curves: list[Curves]) -> str:
    """Losses above, learning rates below, a column a stage; empty without curves."""
    if not curves:
        return ""
    figure = Figure(figsize=(4.2 * len(curves), 4.6), layout="constrained")
    axes = figure.subplots(2, len(curves), squeeze=False, sharex="col", gridspec_kw={"height_ratios": [2, 1]})
    for column, stage in enumerate(curves):
        for number, (name, (steps, values)) in enumerate(stage.losses.items()):
            axes[0, column].plot(steps, values, label=name, linewidth=1.2, **style(number))
        for number, (name, (steps, values)) in enumerate(stage.rates.items()):
            axes[1, column].plot(steps, values, label=name, linewidth=1.2, **style(number))
        axes[0, column].set_title(stage.stage, fontsize=10)
        axes[1, column].set_xlabel("step")
        if stage.losses:
            axes[0, column].legend(fontsize=7, frameon=False)
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("learning rate")
    return _svg(figure)


def cmc_chart(queries: dict[str, PerQuery]) -> str:
    """Share of queries with a match among the first k; a line a model."""
    figure = Figure(figsize=(4.4, 3.2), layout="constrained")
    axes = figure.subplots()
    ranks = np.arange(1, RANKS + 1)
    for number, (title, each) in enumerate(queries.items()):
        hits = each.first_hit[each.first_hit > 0]
        axes.plot(ranks, [100 * (hits <= k).mean() for k in ranks], label=title, **style(number))
    axes.set(xlabel="rank k", ylabel="queries with a match in the first k (%)", xticks=[1, 5, 10, 15, 20])
    axes.legend(fontsize=7, frameon=False)
    return _svg(figure)


def occlusion_chart(queries: dict[str, PerQuery], occlusion: np.ndarray) -> str:
    """Mean average precision by occluded share with 95 % bootstrap intervals; empty where shares are not known."""
    if np.isnan(occlusion).all():
        return ""
    figure = Figure(figsize=(4.4, 3.2), layout="constrained")
    axes = figure.subplots()
    group = np.digitize(occlusion, EDGES[1:-1])
    for number, (title, each) in enumerate(queries.items()):
        known = ~np.isnan(occlusion) & ~np.isnan(each.ap)
        bins = [b for b in range(len(EDGES) - 1) if (known & (group == b)).any()]
        places = [100 * occlusion[known & (group == b)].mean() for b in bins]
        values = [each.ap[known & (group == b)] for b in bins]
        means = np.array([100 * v.mean() for v in values])
        spans = np.array([_interval(v) for v in values]).T.reshape(2, -1)
        error = np.abs(spans - means)
        axes.errorbar(places, means, error, label=title, marker="o", markersize=3, capsize=2, **style(number))
    axes.set(xlabel="occluded share of the person (%)", ylabel="average precision (%)")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, frameon=False)
    return _svg(figure)


def _interval(values: np.ndarray) -> tuple[float, float]:
    drawn = np.random.default_rng(0).choice(values, (DRAWS, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return 100 * low, 100 * high


def _svg(figure: Figure) -> str:
    """The figure as base64 of an SVG whose text stays text."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.5)
    FigureCanvasSVG(figure)
    content = io.BytesIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    return base64.b64encode(content.getvalue()).decode()
