"""Ranked galleries: the rule by which images are left out, which queries are chosen, what a figure holds, mistakes."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from occplug.cli import main
from occplug.errors import ConfigError, DataError
from occplug.reports import rankings as module
from occplug.reports.figures import RIGHT, WRONG, draw_rankings
from occplug.reports.rankings import Ranking, choose_queries, rankings


def ranking(title, ap, folder="", nearest=None):
    """Of as many queries as there are average precisions; gallery images 0 and 2 show the queries' person."""
    ap = np.array(ap)
    count = len(ap)
    nearest = np.tile([0, 1, 2], (count, 1)) if nearest is None else nearest
    return Ranking(
        title,
        [f"{folder}q{i}.png" for i in range(count)],
        [f"{folder}g{i}.png" for i in range(3)],
        np.full(count, 7),
        np.array([7, 8, 7]),
        nearest,
        np.tile([0.1, 0.2, 0.3], (count, 1)),
        SimpleNamespace(ap=ap),
    )


def test_queries_are_chosen_by_precision_by_gain_at_random_or_by_name():
    ours, base = ranking("a", [0.9, 0.2, np.nan, 0.5]), ranking("b", [0.8, 0.6, np.nan, 0.1])
    assert choose_queries(["worst:2"], [ours]) == [1, 3]
    assert choose_queries(["best:1"], [ours]) == [0]
    assert choose_queries(["gain:2"], [ours, base]) == [3, 0]
    assert choose_queries(["q2.png", "q0", "worst:1"], [ours]) == [2, 0, 1]
    drawn = choose_queries(["random:3"], [ours])
    assert sorted(drawn) == [0, 1, 3] and drawn == choose_queries(["random:3"], [ours])  # a query without match is none


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("worst:0", "--queries worst:0: give a number of queries from 1"),
        ("best:x", "--queries best:x: give a number"),
        ("gain:2", "compares the first model with the second, and there is one"),
        ("q9", "--queries q9: no query has that name; there are worst:N, best:N, random:N, gain:N and names of files"),
    ],
)
def test_words_that_name_no_query_are_said(word, message):
    with pytest.raises(ConfigError, match=message):
        choose_queries([word], [ranking("a", [0.5, 0.6])])


@pytest.fixture
def pictures(tmp_path):
    for name in ("q0", "q1", "g0", "g1", "g2"):
        Image.new("RGB", (20, 40), (200, 30, 30)).save(tmp_path / f"{name}.png")
    return f"{tmp_path}/"


def test_a_figure_frames_right_and_wrong_matches(pictures, tmp_path):
    ranked = [ranking("first", [0.5, 0.6], pictures), ranking("second", [0.25, 0.1], pictures)]
    file = draw_rankings(ranked, [0], tmp_path / "ranks.svg", columns=3)
    text = file.read_text()
    assert text.count("<image") == 2 * 4  # a query and three images, for two models
    frames = {color: len(re.findall(rf"stroke: {color.lower()}", text)) for color in (RIGHT["color"], WRONG["color"])}
    assert frames == {RIGHT["color"]: 2 * 2 * 4, WRONG["color"]: 2 * 1 * 4}  # four sides each
    again = draw_rankings(ranked, [0], tmp_path / "again.pdf", columns=3).read_bytes()
    assert again == draw_rankings(ranked, [0], tmp_path / "more.pdf", columns=3).read_bytes() and again[:5] == b"%PDF-"


def test_a_figure_has_its_width_in_inches(pictures, tmp_path):
    with Image.open(draw_rankings([ranking("a", [0.5, 0.6], pictures)], [0, 1], tmp_path / "r.png", 3, 4.0)) as picture:
        assert picture.info["dpi"][0] == pytest.approx(300, abs=1) and 0.7 * 1200 < picture.size[0] <= 1200


def test_a_figure_of_another_kind_is_refused(pictures, tmp_path):
    with pytest.raises(ConfigError, match=r"--figure .*ranks.gif: a figure ends in .pdf, .svg, .png"):
        draw_rankings([ranking("a", [0.5])], [0], tmp_path / "ranks.gif")


def test_models_that_rank_other_images_are_refused(monkeypatch):
    made = {"a": ranking("a", [0.5, 0.6]), "b": ranking("b", [0.5])}
    monkeypatch.setattr(module, "_ranking", lambda candidate, title, target, top: made[title])
    with pytest.raises(DataError, match="b and a rank other images of synthocc; give both one --root"):
        rankings([None, None], ["a", "b"], "synthocc")


def test_the_command_draws_what_the_test_ranks(tmp_path, capsys):
    words = ["show", "zoo://clip_reid/vit_tiny/synthocc", "--root", str(tmp_path / "data"), "--queries", "worst:1"]
    assert main([*words, "--figure", str(tmp_path / "r.png"), "synthocc.size", "tiny", "data.workers", "0"]) == 0
    assert (tmp_path / "r.png").stat().st_size > 10_000
    assert main([*words, "--titles", "a", "b", "--figure", str(tmp_path / "r.png"), "synthocc.size", "tiny"]) == 2
    assert "--titles has 2 titles for 1 models; give one each" in capsys.readouterr().err
