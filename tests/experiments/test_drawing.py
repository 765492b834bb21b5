"""The figure of a table: where its marks stand, equal bytes, mistakes; and the commands that draw it."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from occplug.errors import ConfigError
from occplug.evaluation import PerQuery
from occplug.experiments import drawing
from occplug.experiments.drawing import draw_report
from occplug.experiments.tables import Report
from occplug.experiments.trainings import Row, Run


def row(name, *precisions):
    """A run a value: the mean average precision of forty queries of eight persons, and a Rank-1 equal to it."""
    runs = []
    for seed, value in enumerate(precisions, 1):
        draw = np.random.default_rng(seed)
        ap = np.clip(value + 0.1 * draw.standard_normal(40), 0, 1)
        queries = PerQuery(
            np.array([f"{i}" for i in range(40)]), np.repeat(np.arange(8), 5), np.zeros(40, int), ap, np.ones(40, int)
        )
        figures = {key: float(ap.mean()) for key in ("mAP", "rank1", "rank5", "rank10")}
        runs.append(Run(seed, 1.0, "", {"set": figures}, {"set": queries}, {}, made=None))
    return Row(name, name, runs)


@pytest.fixture
def report(tmp_path):
    return Report("a title", [row("base", 0.4, 0.5), row("better", 0.6)], tmp_path, "command", "base")


def test_bars_are_the_interval_of_the_difference_at_the_baselines_mean(report, monkeypatch):
    drawn = []

    class Axis:
        spines = {
            side: type("Spine", (), {"set_visible": lambda self, shown: None})() for side in ("top", "right", "left")
        }

        def axvline(self, x, **look):
            drawn.append(("line", x))

        def plot(self, x, y, *look, **more):
            drawn.append((look[0] if look else "bar", x, y))

        def __getattr__(self, name):
            return lambda *args, **more: None

    drawing._panel(Axis(), report, "set", "mAP")
    means = {row.name: 100 * np.mean([run.figures["set"]["mAP"] for run in row.runs]) for row in report.rows}
    found = report.differences["set"]["better"]["mAP"]
    assert drawn[0] == ("line", pytest.approx(means["base"]))
    bars = [each[1:] for each in drawn if each[0] == "bar"]
    assert bars == [(pytest.approx((means["base"] + 100 * found.low, means["base"] + 100 * found.high)), (1, 1))]
    assert bars[0][0][0] < means["better"] < bars[0][0][1]
    assert [each[1] for each in drawn if each[0] in "Do"] == [
        pytest.approx(means["base"]),
        pytest.approx(means["better"]),
    ]
    assert [len(each[1]) for each in drawn if each[0] == "."] == [2, 1]


def test_equal_tables_give_equal_files_with_the_rows_names(report, tmp_path):
    one, other = (draw_report(report, tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert one == other and re.search(rb">better<", one) and b"<dc:date>" not in one
    assert draw_report(report, tmp_path / "a.pdf").read_bytes()[:5] == b"%PDF-"
    with Image.open(draw_report(report, tmp_path / "a.png")) as picture:
        assert picture.size[0] == pytest.approx(drawing.WIDTH * drawing.DPI, abs=1)


def test_a_figure_says_in_words_what_it_shows(report, tmp_path):
    found = report.differences["set"]["better"]
    means = [100 * run.figures["set"]["mAP"] for row in report.rows for run in row.runs]
    base = f"{means[0]:.1f}, {means[1]:.1f}"
    shown = [f" ({100 * d.low:+.1f} to {100 * d.high:+.1f} from the baseline)" for d in found.values()]
    lines = [
        f"base (the baseline): mAP {base}; Rank-1 {base}",
        f"better: mAP {means[2]:.1f}{shown[0]}; Rank-1 {means[2]:.1f}{shown[1]}",
    ]
    assert drawing.description(report, "set").split("\n") == lines
    svg = ElementTree.parse(draw_report(report, tmp_path / "a.svg"))
    assert svg.findtext(".//{http://purl.org/dc/elements/1.1/}description").split("\n") == lines
    with Image.open(draw_report(report, tmp_path / "a.png")) as picture:
        assert picture.info["Description"].split("\n") == lines


def test_a_document_shows_the_figure_above_the_table(report, tmp_path):
    document = tmp_path / "docs" / "page.md"
    document.parent.mkdir()
    document.write_text("before\n<!-- mark -->\nold\n<!-- end -->\nafter\n")
    figure = draw_report(report, tmp_path / "docs" / "images" / "a.svg")
    report.write(document, "mark", figure)
    assert document.read_text().startswith("before\n<!-- mark -->\n![a title](images/a.svg)\n\n| model")


def test_other_endings_and_targets_are_refused(report, tmp_path):
    with pytest.raises(ConfigError, match=r"a.gif: a figure ends in .pdf, .svg, .png, .jpg"):
        draw_report(report, tmp_path / "a.gif")
    with pytest.raises(ConfigError, match="other is no target of this table; there are: set"):
        draw_report(report, tmp_path / "a.svg", "other")
