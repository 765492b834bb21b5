"""`compare --runs` and `sweep`: rows of finished runs with differences, and the grid of a sweep."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from occplug.cli import main
from occplug.errors import ConfigError, DataError
from occplug.evaluation import PerQuery, paired_bootstrap, per_query_file
from occplug.experiments.comparing import compare_runs
from occplug.experiments.sweeping import combinations

PIDS = np.array([1, 1, 2, 2, 3, 3])


def finished(folder, ap, seed=1, fingerprint="f", target="synthocc", image="q", protocol="p", pids=PIDS):
    ap = np.array(ap)
    hits = np.where(ap > 0.5, 1, 4)
    names = np.array([f"{image}{n}.png" for n in range(len(ap))])
    queries = PerQuery(names, pids, np.zeros(len(ap), int), ap, hits)
    (folder / "per_query").mkdir(parents=True)
    queries.write(per_query_file(folder, target))
    figures = {"mAP": ap.mean(), "rank1": float((hits == 1).mean()), "rank5": 1.0, "rank10": 1.0, "rank20": 1.0}
    figures |= {"num_query": 6, "num_query_valid": 6, "num_gallery": 9}
    content = {"method": "m", "config_file": "", "seed": seed, "protocol": protocol, "targets": {target: figures}}
    content |= {"stages": [{"name": "s", "epochs": 1, "seconds": 1.0}], "data": {target: {"fingerprint": fingerprint}}}
    (folder / "metrics.json").write_text(json.dumps(content))
    return folder


GOOD, POOR = [0.9, 0.8, 0.7, 0.9, 0.6, 1.0], [0.5, 0.4, 0.7, 0.2, 0.1, 0.3]


def test_finished_runs_are_rows_with_paired_differences(tmp_path):
    poor = finished(tmp_path / "poor", POOR)
    for seed, shift in ((1, 0.0), (2, -0.1)):
        finished(tmp_path / "good" / f"seed{seed}", np.array(GOOD) + shift, seed)
    report = compare_runs([poor, tmp_path / "good"], tmp_path / "out")
    assert [(row.title, len(row.runs)) for row in report.rows] == [("poor", 1), ("good", 2)]
    each = report.differences["synthocc"]["good"]["mAP"]
    wanted = asdict(paired_bootstrap(np.array(GOOD) - 0.05, POOR, PIDS))
    assert asdict(each) == pytest.approx(wanted, abs=1e-12) and each.low > 0
    assert "remain" in report.markdown() and report.rates["synthocc"]["good"]["mAP"] <= 1


def test_what_cannot_be_compared_is_named(tmp_path):
    a, b = finished(tmp_path / "a", GOOD), finished(tmp_path / "b", POOR)
    with pytest.raises(ConfigError, match="give two at least"):
        compare_runs([a], tmp_path)
    with pytest.raises(ConfigError, match="--baseline is 'c', expected one of a, b"):
        compare_runs([a, b], tmp_path, baseline="c")
    with pytest.raises(ConfigError, match="names one folder twice"):
        compare_runs([a, a], tmp_path)
    with pytest.raises(DataError, match="none: no finished run is there"):
        compare_runs([a, tmp_path / "none"], tmp_path)
    with pytest.raises(DataError, match="x was tested on another version of synthocc than a"):
        compare_runs([a, finished(tmp_path / "x", POOR, fingerprint="g")], tmp_path)
    with pytest.raises(DataError, match="different queries"):
        compare_runs([a, finished(tmp_path / "y", POOR, image="r")], tmp_path)
    with pytest.raises(DataError, match="different queries"):
        compare_runs([a, finished(tmp_path / "people", POOR, pids=PIDS[::-1])], tmp_path)
    finished(tmp_path / "both" / "seed1", POOR)
    finished(tmp_path / "both" / "seed2", POOR, seed=2, pids=PIDS + 1)
    with pytest.raises(DataError, match="the seeds of both were tested on different queries"):
        compare_runs([a, tmp_path / "both"], tmp_path)
    with pytest.raises(DataError, match="no test set in common"):
        compare_runs([a, finished(tmp_path / "z", POOR, target="occduke")], tmp_path)


def test_equal_names_of_folders_are_told_apart(tmp_path):
    runs = [finished(tmp_path / name / "seed1", GOOD) for name in ("one", "two")]
    assert [row.title for row in compare_runs(runs, tmp_path / "out").rows] == ["one/seed1", "two/seed1"]


def test_the_command_wants_configs_or_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["compare"]) == 2 and "give either --configs" in capsys.readouterr().err
    a, b = finished(tmp_path / "a", GOOD), finished(tmp_path / "b", POOR)
    assert main(["compare", "--runs", str(a), str(b), "--seeds", "3"]) == 2
    assert main(["compare", "--runs", str(a), str(b), "--name", "two"]) == 0
    assert "-45.0" in capsys.readouterr().out and (tmp_path / "log" / "two" / "report.html").exists()
    assert (tmp_path / "log" / "two" / "queries.html").exists()


def test_a_sweep_is_every_combination():
    words = ["train.lr=1e-4,3e-4", "data.transforms=[random_flip, random_crop],[random_flip]"]
    assert combinations(words) == [
        {"train.lr": rate, "data.transforms": names}
        for rate in ("1e-4", "3e-4")
        for names in ("[random_flip, random_crop]", "[random_flip]")
    ]


@pytest.mark.parametrize("words", [["train.lr"], ["train.lr="], ["train.lr=1,1"], ["a.b=1", "a.b=2"], []])
def test_what_is_no_sweep_is_named(words):
    with pytest.raises(ConfigError):
        combinations(words)


def test_a_sweep_plans_a_row_each(tmp_path, monkeypatch):
    from occplug.experiments import sweeping

    seen = {}

    def planned(rows, jobs, keep, trains):
        seen.update(rows)
        raise ConfigError("planned")

    monkeypatch.setattr(sweeping, "run_and_keep", planned)
    damaged = tmp_path / "log/other/seed1/metrics.json"  # beside the sweep's folder, so none of its runs
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{}")
    (damaged.parent / "config.yaml").write_text("")
    words = ["sweep", "clip_reid_synthocc", "method.stage2.epochs=1,2", "--seeds", "2", "--save-dir"]
    assert main([*words, str(tmp_path / "log/sweep"), "data.workers", "0"]) == 2
    assert list(seen) == ["method.stage2.epochs=1", "method.stage2.epochs=2"]
    trainings = seen["method.stage2.epochs=2"][1]
    assert [training.seed for training in trainings] == [1, 2]
    assert trainings[0].cfg.method.stage2.epochs == 2 and trainings[0].cfg.data.workers == 0
    assert trainings[1].folder.parts[-3:-1] == ("clip_reid_synthocc", trainings[1].folder.parts[-2])


# as `occplug.evaluation.protocol_line` writes it
LINE = "{}; feature {} neck; flip test {}; camera input no; stride 16; {}; re-ranking {}; {}{}"
RULE = "gallery images of the query's person and camera left out"
OURS, AGAIN = "distance of the method", "k1 = 20, k2 = 6, lambda = 0.3"


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (("before", "no", OURS, "no", RULE, ""), "b: flip test no"),
        (("before", "yes", OURS, "no", "camera filter no", ""), "b: camera filter no"),
        (("before", "yes", OURS, "no", RULE, "; embeddings in bf16"), "b: embeddings in bf16"),
        (("before", "yes", OURS, "no", RULE, "; images resized by tensor"), "b: images resized by tensor"),
        (("after", "yes", OURS, f"{AGAIN} of plain distances", RULE, ""), f"b: re-ranking {AGAIN}"),
        (("after", "yes", "cosine distance", "no", RULE, ""), None),  # another method, tested the same way
    ],
)
def test_rows_that_were_tested_differently_say_so(other, told, tmp_path):
    lines = LINE.format("a", "before", "yes", OURS, "no", RULE, ""), LINE.format("b", *other)
    folders = [finished(tmp_path / name, GOOD, protocol=line) for name, line in zip("ab", lines)]
    text = compare_runs(folders, tmp_path / "out").markdown()
    assert ("not tested the same way, so not comparable: a: " in text) == (told is not None)
    assert told is None or told in text
