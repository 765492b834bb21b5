"""Curves of robustness: areas and losses by hand, tables, figure, and the command on a tiny set."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from occplug.cli import main
from occplug.cli.robustness import SIDES as NAMED
from occplug.errors import ConfigError, DataError
from occplug.evaluation import paired_bootstrap
from occplug.experiments.robustness import Curve, Robustness, measure
from occplug.occluders import read_library
from occplug.occluders.covering import SIDES, Cover
from occplug.reports.robustness import draw_robustness

SHARES = [0.0, 0.2, 0.6]


def result():
    ap = np.array([[1.0, 0.8, np.nan], [0.5, 0.6, np.nan], [0.1, 0.0, np.nan]])
    steady = np.array([[0.9, 0.9, np.nan], [0.8, 0.8, np.nan], [0.6, 0.7, np.nan]])
    curves = [Curve("a", 1, "p", ap, np.where(np.isnan(ap), np.nan, ap > 0.4)), Curve("b", 3, "p", steady, steady)]
    return Robustness(curves, SHARES, np.array([1, 2, 3]), np.array(["left", "top", "top"]), "how it was done")


def test_areas_are_those_of_trapezoids():
    found = result()
    by_hand = [(0.2 * (1 + 0.5) / 2 + 0.4 * (0.5 + 0.1) / 2) / 0.6, (0.2 * 0.7 + 0.4 * 0.3) / 0.6]
    assert found.curves[0].area(SHARES, "ap")[:2] == pytest.approx(by_hand)
    content = found.as_json()
    assert content["models"][0]["mAP"]["area"]["difference"] == pytest.approx(np.mean(by_hand))
    assert content["models"][0]["mAP"]["area_by_side"] == pytest.approx({"left": by_hand[0], "top": by_hand[1]})
    assert [row["difference"] for row in content["models"][0]["mAP"]["curve"]] == pytest.approx([0.9, 0.55, 0.05])


def test_losses_are_compared_query_by_query():
    title, first, key, share, each = result().losses()[1]
    assert (title, first, key, share) == ("b", "a", "ap", 0.6)
    # b loses 0.3 and 0.2, a loses 0.9 and 0.8
    assert each.difference == pytest.approx(-0.6)
    assert asdict(each) == pytest.approx(asdict(paired_bootstrap([0.3, 0.2], [0.9, 0.8], [1, 2])))


def test_files_and_figure(tmp_path):
    folder = result().write(tmp_path / "out")
    text = (folder / "robustness.md").read_text()
    assert "| a " in text and "b (3 seeds)" in text and "how it was done" in text and "-60.0 *" in text
    for kind, start in (("pdf", b"%PDF-"), ("svg", b"<?xml")):
        drawn = draw_robustness(folder / "robustness.json", tmp_path / f"r.{kind}").read_bytes()
        assert drawn.startswith(start)
        assert draw_robustness(folder / "robustness.json", tmp_path / f"s.{kind}").read_bytes() == drawn
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match="bad.json: not what occplug robustness writes"):
        draw_robustness(tmp_path / "bad.json", tmp_path / "r.pdf")


def test_shares_ascend_from_nothing():
    covers = [Cover(read_library(), share) for share in (0.1, 0.5)]
    with pytest.raises(ConfigError, match="shares ascend from 0, two at least; got 0.1, 0.5"):
        measure([], [], covers)


def test_queries_covered_in_several_ways_count_once_for_each():
    one = result()
    twice = [np.concatenate([curve.ap, 0.5 * curve.ap], axis=1) for curve in one.curves]
    curves = [Curve(curve.title, 1, "p", ap, ap) for curve, ap in zip(one.curves, twice)]
    found = Robustness(curves, SHARES, np.tile(one.pids, 2), np.tile(one.sides, 2), "how", [4, 7])
    content, alone = found.as_json(), one.as_json()["models"][0]["mAP"]
    area = alone["area"]["difference"]
    assert content["queries"] == 3 and content["seeds"] == [4, 7]
    assert content["models"][0]["mAP"]["area_by_seed"] == pytest.approx([area, area / 2])
    assert content["models"][0]["mAP"]["area"]["difference"] == pytest.approx(0.75 * area)
    assert f"{100 * area:.1f} / {50 * area:.1f} |" in found.markdown() and "by seed" not in one.markdown()


def test_seeds_are_given_once():
    covers = [Cover(read_library(), share) for share in (0.0, 0.5)]
    with pytest.raises(ConfigError, match="seeds are one or more, each once; got 2, 2"):
        measure([], [], covers, seeds=[2, 2])


def test_the_command_measures_stock_models_and_ours_on_the_same_pictures(tmp_path, capsys):
    words = ["robustness", "--root", str(tmp_path / "data"), "--queries", "8", "--shares", "0", "60"]
    for name in ("torchreid/osnet_x0_25/synthocc", "clip_reid/vit_tiny/synthocc"):
        words += ["--weights", f"zoo://{name}"]
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    words += [
        "--readme",
        str(page),
        "--figure",
        str(tmp_path / "r.svg"),
        "--seed",
        "1",
        "2",
        "--output",
        str(tmp_path / "out"),
        "synthocc.size",
        "tiny",
        "data.workers",
        "0",
    ]
    assert main(words) == 2 and "no lines '<!-- robustness -->'" in capsys.readouterr().err
    page.write_text("before\n<!-- robustness -->\nold\n<!-- end -->\nafter\n")
    assert main(words) == 0, capsys.readouterr().err
    text = page.read_text()
    assert text.startswith("before\n<!-- robustness -->\n![robustness](../r.svg)\n\n| mAP (%)") and "old" not in text
    assert "occplug robustness --root" in text and text.endswith("\n<!-- end -->\nafter\n")
    content = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert [model["title"] for model in content["models"]] == ["osnet_x0_25", "clip_reid"] and content["queries"] == 8
    for model in content["models"]:
        start, end = (row["difference"] for row in model["mAP"]["curve"])
        assert start > 0.5 > end + 0.1  # whole persons are recognised, and covered ones less
        one, other = model["mAP"]["area_by_seed"]
        assert one != other and (one + other) / 2 == pytest.approx(model["mAP"]["area"]["difference"])
    assert (tmp_path / "r.svg").exists() and NAMED == SIDES
