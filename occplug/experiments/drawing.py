"""A table of rows over seeds as a figure: every seed, the mean, and the interval of the difference to the baseline."""

from __future__ import annotations

import statistics
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from occplug.errors import ConfigError
from occplug.experiments.tables import Report
from occplug.utils.plotting import COLORS, STYLE, check_ending, save_figure

__all__ = ["description", "draw_report"]

PANELS = {"mAP": "mAP, %", "rank1": "Rank-1, %"}
ROW = {"color": COLORS[0], "marker": "o"}
BASELINE = {"color": COLORS[1], "marker": "D"}
ROW_HEIGHT, WIDTH, DPI = 0.27, 7.2, 150  # inches, inches, of a .png


def draw_report(report: Report, file: Path, target: str | None = None) -> Path:
    """Draw the table of one target into `file` (.svg, .pdf, .png or .jpg), equal bytes for equal figures.

    A row has a small dot for each seed and a large one for their mean; a bar is the 95 % interval of the difference to
    the baseline (`Report.differences`), set at the baseline's mean, which is the dashed line. The file says the same in
    words (:func:`description`), for those who cannot see it.

    Args:
        target: data set; the report's first by default.

    Raises:
        ConfigError: another ending, or a data set that the report does not have.
        OutputError: the file cannot be written.
    """
    target = report.targets[0] if target is None else target
    check_ending(file)
    if target not in report.targets:
        raise ConfigError(f"{target} is no target of this table; there are: {', '.join(report.targets)}")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + ROW_HEIGHT * len(report.rows)), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, len(PANELS), sharey=True)
        for axis, (key, title) in zip(axes, PANELS.items()):
            _panel(axis, report, target, key)
            axis.set_xlabel(title)
        axes[0].set_yticks(range(len(report.rows)), [row.title for row in report.rows])
        axes[0].set_ylim(-0.6, len(report.rows) - 0.4)
        return save_figure(figure, file, description(report, target))


def description(report: Report, target: str) -> str:
    """What the figure of a target shows, in words: a line a row, in per cent."""
    lines = []
    for row in report.rows:
        shown = [
            f"{title.removesuffix(', %')} {', '.join(f'{100 * run.figures[target][key]:.1f}' for run in row.runs)}"
            + _interval(report.differences[target].get(row.name), key)
            for key, title in PANELS.items()
        ]
        baseline = " (the baseline)" if row.name == report.baseline else ""
        lines.append(f"{row.title}{baseline}: {'; '.join(shown)}")
    return "\n".join(lines)


def _interval(paired, key: str) -> str:
    return f" ({100 * paired[key].low:+.1f} to {100 * paired[key].high:+.1f} from the baseline)" if paired else ""


def _panel(axis, report: Report, target: str, key: str) -> None:
    values = {row.name: [100 * run.figures[target][key] for run in row.runs] for row in report.rows}
    means = {name: statistics.mean(paired) for name, paired in values.items()}
    base = means.get(report.baseline) if report.baseline else None
    if base is not None:
        axis.axvline(base, color=BASELINE["color"], linewidth=0.8, linestyle="--", zorder=0)
    for place, row in enumerate(report.rows):
        look = BASELINE if row.name == report.baseline else ROW
        paired = report.differences[target].get(row.name)
        if paired and base is not None:
            interval = base + 100 * paired[key].low, base + 100 * paired[key].high
            axis.plot(interval, (place, place), color=look["color"], linewidth=1.6, solid_capstyle="butt", alpha=0.6)
        axis.plot(values[row.name], [place] * len(row.runs), ".", color="#666666", markersize=3.5, zorder=3)
        axis.plot(means[row.name], place, look["marker"], color=look["color"], markersize=5, zorder=2)
    axis.grid(axis="x", color="#dddddd", linewidth=0.5)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.tick_params(axis="y", length=0)
