"""`occplug ablate` and `occplug compare` with a training that only leaves a run's files, and mistakes."""

import json
import re
import shutil
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from occplug.cli import main
from occplug.config import load_config
from occplug.errors import ConfigError, DataError, TrainingError
from occplug.evaluation import PerQuery, color_histogram, evaluate_rank, paired_bootstrap
from occplug.experiments import comparing, trainings
from occplug.experiments.tables import Published, Report, spread
from occplug.experiments.trainings import Row, Run, known_runs, plan, run_rows, share
from occplug.registry import DATASETS, build
from tests.cli.fakes import careful_run, fake_run, killed_run

CONFIGS = Path(__file__).parents[2] / "configs"
SYNTHOCC = str(CONFIGS / "clip_reid_synthocc.yaml")
OCCDUKE = str(CONFIGS / "clip_reid_occduke.yaml")


BOTH = {"baseline": ["method.prompts", False, "method.stage2.weights.loss_id", 1.0], "clip_reid": []}


@pytest.fixture(autouse=True)
def _no_training(monkeypatch, tmp_path):
    monkeypatch.setattr(trainings, "_run", fake_run)
    monkeypatch.chdir(tmp_path)


def of_version(fingerprint, data_set="synthocc"):
    """What the given folder holds, as `trainings._given` says it."""
    return {data_set: {"fingerprint": fingerprint, "folder": "data"}}


def forget_record(file):
    """Make `file` the metrics of a run of early versions, which did not record when and on what it was made."""
    metrics = json.loads(file.read_text())
    del metrics["record"]
    file.write_text(json.dumps(metrics))


def ablate(*options, config=SYNTHOCC, table="prompts"):
    return main(["ablate", "--config-file", config, "--table", table, "--save-dir", "runs", *options])


def results(folder):
    return json.loads((Path("runs") / folder / "results.json").read_text())


def made(folder):
    return made_in(Path("runs") / folder)


def made_in(folder):
    return Path(folder, "made").read_text().split("\n")[:-1]


def test_rows_and_seeds_go_to_their_own_folders_and_are_read_again(capsys):
    assert ablate("--seeds", "2") == 0
    folder = "clip_reid_synthocc/prompts"
    assert made(folder) == ["baseline 1", "baseline 2", "clip_reid 1", "clip_reid 2"]
    first = results(folder)
    assert ablate("--seeds", "3") == 0
    assert (
        made(folder)[4:] == ["baseline 3", "clip_reid 3"]
        and len(results(folder)["targets"]["synthocc"][0]["runs"]) == 3
    )
    assert ablate("--seeds", "2") == 0
    assert results(folder)["targets"] == first["targets"]
    printed = capsys.readouterr().out
    assert (
        "left out: sie_olp (made for other configs: backbone.name is 'clip_vit_tiny', data.targets" in printed
        and "report: runs/clip_reid_synthocc/prompts" in printed
    )


def test_figures_are_those_of_the_runs():
    ablate("--seeds", "3")
    rows = {row["row"]: row for row in results("clip_reid_synthocc/prompts")["targets"]["synthocc"]}
    values = [run["mAP"] for run in rows["clip_reid"]["runs"]]
    assert rows["clip_reid"]["mean"]["mAP"] == pytest.approx(np.mean(values))
    assert rows["clip_reid"]["sd"]["mAP"] == pytest.approx(np.std(values, ddof=1))
    ours, base = (per_query_means(name) for name in ("clip_reid", "baseline"))
    persons = np.repeat(np.arange(30), 4)
    for key in ("mAP", "rank1"):
        expected = paired_bootstrap(ours[key], base[key], persons)
        assert rows["clip_reid"]["difference"][key] == vars(expected)
    assert rows["clip_reid"]["difference"]["mAP"]["p"] < 0.001
    assert rows["clip_reid"]["difference"]["mAP"]["difference"] == pytest.approx(0.1, abs=0.01)
    assert rows["baseline"]["difference"] is None and rows["baseline"]["published"] is None


def per_query_means(row):
    """Mean over three seeds of the values of each query, from the files."""
    folder = Path("runs/clip_reid_synthocc/prompts") / row
    saved = [np.load(folder / f"seed{seed}/per_query/synthocc.npz") for seed in (1, 2, 3)]
    return {
        "mAP": sum(each["ap"] for each in saved) / 3,
        "rank1": sum((each["first_hit"] == 1).astype(float) for each in saved) / 3,
    }


def test_published_figures_stand_beside_ours_only_where_they_belong(capsys):
    ablate("--seeds", "1", config=OCCDUKE)
    lines = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.split("\n") if line.startswith("| ")}
    assert "53.5 / 60.8" in lines["fine-tuned image tower"] and "59.5 / 67.1" in lines["CLIP-ReID"]
    assert "60.3 / 67.2" in lines["CLIP-ReID + SIE + OLP"] and "p < 0.001" in lines["CLIP-ReID"]
    ablate("--seeds", "1")
    rows = [line for line in capsys.readouterr().out.split("\n") if line.startswith("| CLIP-ReID")]
    assert len(rows) == 1 and rows[0].rstrip(" |").endswith("—")


def test_chosen_rows_keep_the_tables_order_and_need_no_baseline():
    assert ablate("--rows", "clip_reid", "data.workers", "0", "--seeds", "1") == 0
    assert made("clip_reid_synthocc/prompts") == ["clip_reid 1"]
    (row,) = results("clip_reid_synthocc/prompts")["targets"]["synthocc"]
    assert row["difference"] is None
    assert ablate("--rows", "clip_reid", "baseline", "data.workers", "0", "--seeds", "1") == 0
    assert [row["row"] for row in results("clip_reid_synthocc/prompts")["targets"]["synthocc"]] == [
        "baseline",
        "clip_reid",
    ]


def test_a_rows_overrides_win_over_the_users_and_the_seed_over_all():
    ablate("--seeds", "1", "method.prompts", "True", "method.stage1.epochs", "3", "train.seed", "77")
    text = Path("runs/clip_reid_synthocc/prompts/baseline/seed1/config.yaml").read_text()
    assert "prompts: false" in text and "epochs: 3" in text and "seed: 1\n" in text and "seed: 77" not in text


def test_a_failing_row_leaves_the_others(capsys):
    assert ablate("--seeds", "1", table="recipe") == 2
    assert "neck_after does not converge" in capsys.readouterr().err
    assert made("clip_reid_synthocc/recipe") == ["code 1", "id_weight 1"]


def test_the_table_goes_between_its_marks():
    page = Path("page.md")
    page.write_text("before\n<!-- ablate clip_reid_synthocc prompts -->\nold\n<!-- end -->\nafter\n")
    ablate("--seeds", "1", "--readme", "page.md")
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text and "| CLIP-ReID" in text
    assert "paired bootstrap" in Path("runs/clip_reid_synthocc/prompts/results.md").read_text()
    html = Path("runs/clip_reid_synthocc/prompts/report.html").read_text()
    assert "<h1>CLIP-ReID: prompts" in html and html.count("<td>fake</td>") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--table", "no"], "clip_reid has no table 'no'; it has: prompts, backbone, recipe, length, template"),
        (["--table", "fusion"], "fusion is a table of dpl_reid, so give a config of that method"),
        (["--rows", "clipreid"], "--rows: table prompts has no row 'clipreid'; it has: baseline, clip_reid, sie_olp"),
        (["--rows", "sie_olp"], "row sie_olp: it cannot be trained from"),
        (["--seeds", "0"], "--seeds is 0, but a row needs at least 1"),
        (["--jobs", "0"], "--jobs is 0, but at least 1 process has to train"),
        (["method.promts", "3"], "there is no key 'method.promts'"),
        (["--sedes", "3"], "there is no option --sedes; see occplug ablate --help"),
        (["--config-file", "none.yaml"], "none.yaml: there is no such config file"),
        (["--tables", "none.yaml"], "none.yaml: there is no such file of tables for clip_reid"),
    ],
)
def test_mistakes_are_named_before_anything_runs(options, message, capsys):
    assert ablate("--seeds", "1", *options) == 2
    assert message in capsys.readouterr().err and not Path("runs").exists()


def test_a_document_without_marks_is_told_before_anything_runs(capsys):
    Path("page.md").write_text("no marks\n")
    assert ablate("--seeds", "1", "--readme", "page.md") == 2
    assert "page.md has no lines '<!-- ablate clip_reid_synthocc prompts -->'" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_runs_on_other_data_than_given_are_not_read(capsys, monkeypatch):
    class Data:
        """Version 1 of SynthOcc in folder a and its copy, nothing elsewhere."""

        def __init__(self, cfg, trains, sources):
            if cfg.data.root not in ("a", "copy"):
                raise DataError(f"synthocc is not in {cfg.data.root}")
            self.sets = {"synthocc": SimpleNamespace(fingerprint="version 1" if cfg.data.root == "copy" else "other")}

        def close(self):
            pass

    monkeypatch.setattr(trainings, "DataManager", Data)
    assert ablate("--seeds", "1", "--root", "b", "synthocc.seed", "1") == 0  # nothing to compare with yet
    assert ablate("--seeds", "1", "--root", "b", "synthocc.seed", "1") == 0
    assert ablate("--seeds", "1", "--root", "copy", "synthocc.seed", "1") == 0
    assert ablate("--seeds", "1", "--root", "nowhere", "synthocc.seed", "1") == 2
    assert "synthocc is not in nowhere" in capsys.readouterr().err
    assert ablate("--seeds", "1", "--root", "a", "synthocc.seed", "1") == 2
    assert "baseline/seed1 used another version of synthocc than a, so they do not belong" in capsys.readouterr().err


def test_a_damaged_run_is_named(capsys):
    assert ablate("--seeds", "1") == 0
    Path("runs/clip_reid_synthocc/prompts/baseline/seed1/metrics.json").write_text('{"seed": 1,')
    assert ablate("--seeds", "1") == 2
    assert "baseline/seed1/metrics.json is damaged" in capsys.readouterr().err
    Path("runs/clip_reid_synthocc/prompts/baseline/seed1/metrics.json").write_text("{}")
    assert ablate("--seeds", "1") == 2
    assert "metrics.json is damaged (lacks seed, protocol, targets, stages, data)" in capsys.readouterr().err


def test_a_run_of_another_config_is_not_read_as_this_one(capsys):
    ablate("--seeds", "1")
    assert ablate("--seeds", "1", "method.stage2.epochs", "3") == 2
    assert "baseline/seed1 holds a run of another config; delete it" in capsys.readouterr().err
    # a key that came after the run was made stands at its default in it
    config = Path("runs/clip_reid_synthocc/prompts/baseline/seed1/config.yaml")
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if not line.startswith("  eval_freq")))
    assert ablate("--seeds", "1") == 0
    # an interrupted one neither: it would go on under another config
    folder = Path("runs/clip_reid_synthocc/prompts/baseline/seed1")
    (folder / "metrics.json").unlink()
    (folder / "checkpoints/last.pth").touch()
    assert ablate("--seeds", "1", "method.stage2.epochs", "3") == 2
    assert "baseline/seed1 holds a run of another config; delete it" in capsys.readouterr().err


TABLES = """
method: clip_reid
tables:
  first:
    title: first
    source: none
    baseline: plain
    rows:
      plain: {}
      after: {tests: plain, set: {test.rerank: True}}
  second:
    title: second
    source: none
    baseline: short
    rows:
      short: {set: {method.stage2.epochs: 2}}
      same: {}
      again: {title: the same once more}
"""


def test_rows_on_other_data_sets_are_named_before_anything_runs(capsys):
    assert main(["compare", "--name", "x", "--configs", SYNTHOCC, OCCDUKE, "--seeds", "1"]) == 2
    told = "here are clip_reid_synthocc on synthocc; clip_reid_occduke on occluded_duke"
    assert told in capsys.readouterr().err and not Path("log").exists()


def test_the_footer_says_what_the_runs_ran_on(capsys):
    ablate("--seeds", "1")
    forget_record(Path("runs/clip_reid_synthocc/prompts/baseline/seed1/metrics.json"))
    file = Path("runs/clip_reid_synthocc/prompts/clip_reid/seed1/metrics.json")
    metrics = json.loads(file.read_text())
    metrics["record"] |= {"machine": "big GPU", "versions": {"torch": "3.0"}, "date": "2030-01-02"}
    file.write_text(json.dumps(metrics))
    ablate("--seeds", "1")
    assert "; big GPU, torch 3.0, 2030-01-02; machine not recorded; `python" in capsys.readouterr().out


def test_a_row_that_cannot_be_built_is_named_before_anything_runs(capsys):
    overrides = (
        "{backbone.name: wgff, backbone.wgff.clip: clip_vit_tiny, backbone.wgff.lsnet: lsnet_mini, "
        "backbone.wgff.points: [[99, fused]]}"
    )
    Path("tables.yaml").write_text(TABLES.replace("same: {}", f"same: {{set: {overrides}}}"))
    assert ablate("--seeds", "1", "--tables", "tables.yaml", table="second") == 2
    assert "same: backbone.wgff.points has [99, 'fused']; a point is [layer, source]" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_row_that_only_tests_takes_the_weights_of_its_row():
    Path("tables.yaml").write_text(TABLES)
    assert ablate("--seeds", "2", "--rows", "after", "--tables", "tables.yaml", table="first") == 0
    # what it needs was trained first, without a place in the table
    assert made("clip_reid_synthocc/first") == ["plain 1", "plain 2", "after 1 of plain 1", "after 2 of plain 2"]
    assert [row["row"] for row in results("clip_reid_synthocc/first")["targets"]["synthocc"]] == ["after"]
    assert ablate("--seeds", "2", "--tables", "tables.yaml", table="first") == 0
    assert len(made("clip_reid_synthocc/first")) == 4
    # new weights are tested again, and figures of a mere test are none of a training
    shutil.rmtree("runs/clip_reid_synthocc/first/plain/seed1")
    assert ablate("--seeds", "2", "--tables", "tables.yaml", table="first") == 0
    assert made("clip_reid_synthocc/first")[4:] == ["plain 1", "after 1 of plain 1"]
    Path("tables.yaml").write_text(TABLES.replace("{tests: plain, set", "{set"))
    assert ablate("--seeds", "1", "--tables", "tables.yaml", table="first") == 0
    assert made("clip_reid_synthocc/first")[6:] == ["after 1"]


BUILDING = """
method: clip_reid
tables:
  shared:
    title: shared
    source: none
    baseline: late
    rows:
      late: {after: whole, set: {backbone.weights: "${run}/checkpoints/stage1.pth"}}
      whole: {}
"""


KEPT = BUILDING.partition("tables:\n")[2]


def test_a_row_that_builds_on_another_names_its_folder_and_is_made_later():
    Path("tables.yaml").write_text(BUILDING)
    options = ("--seeds", "2", "--tables", "tables.yaml")
    assert ablate(*options, "--rows", "late", table="shared") == 0
    folder = Path("runs/clip_reid_synthocc/shared")
    assert made("clip_reid_synthocc/shared") == ["whole 1", "whole 2", "late 1", "late 2"]
    for seed in (1, 2):
        cfg = load_config(folder / f"late/seed{seed}/config.yaml")
        assert cfg.backbone.weights == f"{folder}/whole/seed{seed}/checkpoints/stage1.pth"
    assert ablate(*options, table="shared") == 0  # both are complete
    assert len(made("clip_reid_synthocc/shared")) == 4
    assert ablate(*options, "--save-dir", str(Path("runs").resolve()), table="shared") == 0  # the same folder
    assert len(made("clip_reid_synthocc/shared")) == 4
    # what it builds on may have been made for another table
    again = BUILDING.replace("shared:\n", "other:\n").replace("set: {", "set: {method.stage2.epochs: 2, ")
    Path("tables.yaml").write_text(again)
    assert ablate(*options, table="other") == 0
    assert made("clip_reid_synthocc/other") == ["late 1", "late 2"]
    cfg = load_config("runs/clip_reid_synthocc/other/late/seed2/config.yaml")
    assert cfg.backbone.weights == f"{folder}/whole/seed2/checkpoints/stage1.pth"


def test_a_row_may_build_on_a_row_of_another_table():
    Path("tables.yaml").write_text(
        BUILDING
        + """
  second:
    title: second
    source: none
    baseline: early
    rows:
      early: {after: shared.whole, set: {backbone.weights: "${run}/checkpoints/stage1.pth", method.stage2.epochs: 2}}
      late: {after: shared.whole, set: {backbone.weights: "${run}/checkpoints/stage1.pth"}}
"""
    )
    options = ("--seeds", "1", "--tables", "tables.yaml")
    assert ablate(*options, table="second") == 0
    assert made("clip_reid_synthocc/second") == ["early 1", "late 1"]
    assert made("clip_reid_synthocc/shared") == ["whole 1"]  # trained where its own table looks for it
    assert [row["row"] for row in results("clip_reid_synthocc/second")["targets"]["synthocc"]] == ["early", "late"]
    cfg = load_config("runs/clip_reid_synthocc/second/early/seed1/config.yaml")
    assert cfg.backbone.weights == "runs/clip_reid_synthocc/shared/whole/seed1/checkpoints/stage1.pth"
    assert ablate(*options, table="shared") == 0  # both rows are there
    assert made("clip_reid_synthocc/shared") == ["whole 1"]


def test_an_equal_row_before_the_source_does_not_take_its_folder():
    Path("tables.yaml").write_text(BUILDING.replace("whole: {}", "twin: {}\n      whole: {}"))
    assert ablate("--seeds", "1", "--tables", "tables.yaml", table="shared") == 0
    assert made("clip_reid_synthocc/shared") == ["whole 1", "late 1"]


def two_kept_tables(seeds, monkeypatch):
    """Make the tables `first` and `shared` and keep their runs; returns the options that did."""
    monkeypatch.setattr(trainings, "_given", lambda cfg: of_version("version 1"))
    Path("tables.yaml").write_text(TABLES + KEPT)
    options = ("--seeds", seeds, "--tables", "tables.yaml", "--keep", "kept")
    for table in ("first", "shared"):
        assert ablate(*options, table=table) == 0
    return options


def test_kept_runs_make_the_table_again_without_weights(monkeypatch):
    options = two_kept_tables("2", monkeypatch)
    first, shared = (results(f"clip_reid_synthocc/{table}")["targets"] for table in ("first", "shared"))
    files = {path.name for path in Path("kept").rglob("*") if path.is_file()}
    assert files == {"config.yaml", "kept.json", "metrics.json", "synthocc.npz"}
    (late,) = Path("kept/clip_reid_synthocc").glob("late-*/seed2")
    cfg = load_config(late / "config.yaml")
    assert cfg.data.root == cfg.data.save_dir == ""
    assert cfg.backbone.weights == "${run}/checkpoints/stage1.pth"  # no folder of this machine
    whole = json.loads((late / "kept.json").read_text())["after"]
    assert (Path("kept") / whole / "metrics.json").is_file()

    shutil.move("runs", "gone")
    for table, figures in (("first", first), ("shared", shared)):
        assert ablate(*options, "--save-dir", "elsewhere/runs", table=table) == 0
        again = json.loads(Path(f"elsewhere/runs/clip_reid_synthocc/{table}/results.json").read_text())
        assert again["targets"] == figures
    assert not list(Path("elsewhere").rglob("made"))
    # a third seed is trained with what it builds on, and kept
    assert ablate("--seeds", "3", *options[2:], table="first") == 0
    assert "plain 3" in made("clip_reid_synthocc/first") and "after 3 of plain 3" in made("clip_reid_synthocc/first")
    assert not [line for line in made("clip_reid_synthocc/first") if "3" not in line]
    (after,) = Path("kept/clip_reid_synthocc").glob("after-*")
    assert sorted(path.parent.name for path in after.glob("*/metrics.json")) == ["seed1", "seed2", "seed3"]


def test_runs_may_be_kept_in_one_file(monkeypatch):
    monkeypatch.setattr(trainings, "_given", lambda cfg: of_version("version 1"))
    options = ("--seeds", "1", "--keep", "docs/kept.jsonl")
    assert ablate(*options) == 0
    first = results("clip_reid_synthocc/prompts")["targets"]
    shutil.rmtree("runs")
    assert ablate(*options) == 0 and results("clip_reid_synthocc/prompts")["targets"] == first
    assert not list(Path("runs").rglob("made"))
    assert len(Path("docs/kept.jsonl").read_text().splitlines()) == 2


def test_kept_runs_are_of_the_given_data_and_settings(monkeypatch, capsys):
    options = ("--seeds", "1", "--keep", "kept")
    assert ablate(*options) == 0
    shutil.rmtree("runs")
    monkeypatch.setattr(trainings, "_given", lambda cfg: of_version("other"))
    for root in ([], ["--root", "."]):
        assert ablate(*options, *root) == 2
        assert "used another version of synthocc than data" in capsys.readouterr().err
    assert not Path("runs").exists()
    other = (*options, "method.stage1.epochs", "3")
    assert ablate(*other) == 0 and made("clip_reid_synthocc/prompts") == ["baseline 1", "clip_reid 1"]
    kept = sorted(Path("kept/clip_reid_synthocc").glob("baseline-*/seed1"))
    assert len(kept) == 2  # both settings, one name
    Path(kept[0], "kept.json").write_text("{")
    assert ablate(*options, "method.stage1.epochs", "4") == 2
    assert f"{kept[0]}/kept.json is missing or damaged" in capsys.readouterr().err


def test_a_kept_run_stands_for_no_other_one(monkeypatch):
    monkeypatch.setattr(trainings, "_given", lambda cfg: of_version("version 1"))
    Path("tables.yaml").write_text(BUILDING)
    options = ("--seeds", "1", "--tables", "tables.yaml", "--keep", "runs/kept")
    assert ablate(*options, table="shared") == 0
    # what a row builds on is the same, and the file of it that it takes another one
    Path("tables.yaml").write_text(BUILDING.replace("stage1.pth", "stage2.pth"))
    shutil.rmtree("runs/clip_reid_synthocc")
    assert ablate(*options, table="shared") == 0
    assert made("clip_reid_synthocc/shared") == ["whole 1", "late 1"]
    # figures of a test are none of a training, wherever they are kept
    Path("tables.yaml").write_text(TABLES)
    assert ablate(*options, table="first") == 0
    shutil.rmtree("runs/clip_reid_synthocc")
    Path("tables.yaml").write_text(TABLES.replace("{tests: plain, set", "{set"))
    assert ablate(*options[:4], table="first") == 0
    assert made("clip_reid_synthocc/first") == ["plain 1", "after 1"]


def test_kept_runs_outlive_new_config_keys(monkeypatch):
    options = two_kept_tables("1", monkeypatch)
    # a run of an earlier version lacks a key, and its folder's name a hash of it
    for file in list(Path("kept").rglob("config.yaml")):
        text = file.read_text()
        assert "rerank_k1: 20" in text
        file.write_text(text.replace("  rerank_k1: 20\n", ""))
        row = file.parents[1]
        row.rename(row.with_name(row.name.rpartition("-")[0] + "-older000"))
    for about in list(Path("kept").rglob("kept.json")):
        about.write_text(re.sub(r"-[0-9a-f]{8}/", "-older000/", about.read_text()))
    shutil.rmtree("runs")
    for table in ("first", "shared"):
        assert ablate(*options, table=table) == 0
    assert not list(Path("runs").rglob("made"))


def test_a_row_whose_source_does_not_train_the_stage_is_named_before_anything_runs(capsys):
    table = BUILDING.replace("whole: {}", "whole: {set: {method.prompts: False}}")
    Path("tables.yaml").write_text(table)
    assert ablate("--seeds", "1", "--tables", "tables.yaml", table="shared") == 2
    assert "late builds on the stage stage1 of whole, which does not train it" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_equal_rows_of_two_tables_are_trained_once():
    Path("tables.yaml").write_text(TABLES)
    assert ablate("--seeds", "1", "--tables", "tables.yaml", table="first") == 0
    assert ablate("--seeds", "2", "--tables", "tables.yaml", table="second") == 0
    assert made("clip_reid_synthocc/second") == ["short 1", "short 2", "same 2"]  # `again` is `same`
    rows = results("clip_reid_synthocc/second")["targets"]["synthocc"]
    assert [row["row"] for row in rows] == ["short", "same", "again"] and rows[1]["runs"] == rows[2]["runs"]
    first, second = (results(f"clip_reid_synthocc/{table}")["targets"]["synthocc"] for table in ("first", "second"))
    assert first[0]["runs"][0]["mAP"] == second[1]["runs"][0]["mAP"]
    # the seed that was trained later is found the other way round
    assert ablate("--seeds", "2", "--tables", "tables.yaml", table="first") == 0
    assert made("clip_reid_synthocc/first") == ["plain 1", "after 1 of plain 1", "after 2 of plain 2"]


def test_a_run_that_only_tests_reads_checkpoint_and_config(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    first, second = (
        plan("a", SYNTHOCC, [], 1, Path("one"))[0],
        plan("b", SYNTHOCC, ["eval.flip", False], 1, Path("two"))[0],
    )
    fake_run(first)
    seen = []
    monkeypatch.setattr(trainings, "read_test_weights", lambda path: seen.append(path) or "weights")
    monkeypatch.setattr(
        trainings, "evaluate_candidate", lambda candidate, rerank, file: seen.extend([candidate, rerank, file])
    )
    trainings._run(replace(second, tests=first))
    assert seen[0] == "one/a/seed1/checkpoints/stage2.pth" and seen[1].cfg == second.cfg
    assert seen[2:] == [False, Path("two/b/seed1/metrics.json")]


def other_version(file: Path) -> None:
    file.write_text(file.read_text().replace("version 1", "version 2"))


def test_complete_runs_on_different_versions_of_the_data_do_not_share_a_table():
    """Said before the seed that is missing is trained."""
    ablate("--seeds", "1")
    file = Path("runs/clip_reid_synthocc/prompts/clip_reid/seed1/metrics.json")
    other_version(file)
    folder = file.parents[2]
    planned = {name: (name, plan(name, SYNTHOCC, options, 2, folder)) for name, options in BOTH.items()}
    told = f"the run in {file.parent} used another version of synthocc than {folder}/baseline/seed1"
    with pytest.raises(DataError, match=told):
        run_rows(planned, run=fake_run)
    assert not (folder / "baseline/seed2").exists()


def test_a_run_on_another_version_of_the_data_ends_the_table_at_once():
    planned = {"a": ("A", plan("a", SYNTHOCC, [], 3, Path("runs")))}

    def run(training):
        fake_run(training)
        if training.seed == 2:
            other_version(training.folder / "metrics.json")

    with pytest.raises(DataError, match="the run in runs/a/seed2 used another version of synthocc than runs/a/seed1"):
        run_rows(planned, run=run)
    assert not Path("runs/a/seed3").exists()


def test_an_interrupted_run_is_resumed(monkeypatch):
    from occplug.runs import train as train_module

    seen = []
    monkeypatch.undo()
    monkeypatch.setattr(trainings, "train", lambda cfg, resume, config_file: seen.append((cfg.data.save_dir, resume)))
    first, second = plan("a", SYNTHOCC, [], 2, Path("runs"))
    assert train_module.train is not trainings.train
    for training in (first, second):
        monkeypatch.setattr(type(training), "can_resume", lambda self: self.seed == 2)
        trainings._run(training)
    assert seen == [("runs/a/seed1", False), ("runs/a/seed2", True)]


def test_runs_in_parallel_processes_give_what_runs_in_turn_give():
    """Two good runs and one that fails, in two fresh processes: the good ones are complete, the failure is named."""
    in_turn = run_rows({"a": ("A", plan("a", SYNTHOCC, [], 2, Path("one")))}, 1)
    planned = {"a": ("A", plan("a", SYNTHOCC, [], 2, Path("two")))}
    bad = {"b": ("B", plan("b", SYNTHOCC, ["method.neck", "after"], 1, Path("two")))}
    with pytest.raises(TrainingError, match="b does not converge"):
        run_rows({**planned, **bad}, 2, fake_run)
    (again,) = run_rows(planned, 2, None)  # nothing is left to do
    assert [run.figures for run in again.runs] == [run.figures for run in in_turn[0].runs]


def test_keys_that_move_no_figure_make_no_other_run():
    """Moved data, other workers or threads: what was trained is found; another rate is another run."""
    (first,) = plan("a", SYNTHOCC, [], 1, Path("runs"))
    fake_run(first)
    (again,) = plan("a", SYNTHOCC, ["data.root", "/elsewhere", "data.workers", 0, "run.threads", 1], 1, Path("runs"))
    assert again.is_complete()
    (other,) = share(plan("b", SYNTHOCC, ["data.workers", 0], 1, Path("other")), known_runs(Path("runs")))
    assert other.folder == first.folder
    options = ["method.stage2.lr", 0.1]
    (other,) = share(plan("b", SYNTHOCC, options, 1, Path("other")), known_runs(Path("runs")))
    assert other.folder != first.folder
    with pytest.raises(ConfigError, match="holds a run of another config"):
        plan("a", SYNTHOCC, options, 1, Path("runs"))[0].is_complete()


def test_a_damaged_run_of_another_table_stops_nothing(caplog):
    (first,) = plan("a", SYNTHOCC, [], 1, Path("runs"))
    fake_run(first)
    for number, text in enumerate(("", "{", "[1]", '{"record": 3}')):
        other = Path(f"runs/damaged{number}/seed1")
        other.mkdir(parents=True)
        (other / "config.yaml").write_bytes((first.folder / "config.yaml").read_bytes())
        (other / "metrics.json").write_text(text)
    assert list(known_runs(Path("runs")).values()) == [first.folder]
    assert caplog.text.count("passed over") == 4 and "damaged2" in caplog.text


def test_after_a_failure_no_run_starts_any_more(monkeypatch):
    monkeypatch.setattr(trainings.multiprocessing, "get_context", lambda kind: get_context("fork"))  # starts faster
    bad = plan("b", SYNTHOCC, ["method.neck", "after"], 1, Path("runs"))
    good = plan("a", SYNTHOCC, [], 4, Path("runs"))
    with pytest.raises(TrainingError, match="b does not converge"):
        run_rows({"b": ("B", bad), "a": ("A", good)}, 2, careful_run)
    assert made_in("runs") == ["a 1"]


def test_runs_of_different_code_are_told_apart():
    file = Path("runs/clip_reid_synthocc/prompts/baseline/seed1/metrics.json")
    ablate("--seeds", "1")
    assert "versions of the code" not in (file.parents[2] / "results.md").read_text()
    metrics = json.loads(file.read_text())
    metrics["record"]["sources"] = "abc"
    file.write_text(json.dumps(metrics))
    forget_record(file.parents[2] / "clip_reid/seed1/metrics.json")
    ablate("--seeds", "1")
    text = (file.parents[2] / "results.md").read_text()
    assert "made by 2 versions of the code (`sources` abc, not recorded)" in text


def test_processes_wait_for_what_a_run_reads(monkeypatch):
    """Sources, what builds on them, and what tests that, in the worst order."""
    monkeypatch.setattr(trainings.multiprocessing, "get_context", lambda kind: get_context("fork"))  # starts faster
    whole = plan("whole", SYNTHOCC, [], 3, Path("runs"))
    late = plan("late", SYNTHOCC, ["method.stage2.epochs", 2], 3, Path("runs"), after=whole)
    tests = [
        replace(t, tests=source)
        for t, source in zip(plan("tested", SYNTHOCC, ["eval.flip", False], 3, Path("runs")), late)
    ]
    planned = {"tested": ("T", tests), "late": ("L", late), "whole": ("W", whole)}
    rows = run_rows(planned, 2, careful_run)
    assert [len(row.runs) for row in rows] == [3, 3, 3]
    lines = made_in("runs")
    assert lines[:1] == ["whole 1"] or lines[:1] == ["whole 2"]
    assert sorted(lines) == sorted(
        line for k in (1, 2, 3) for line in (f"whole {k}", f"late {k}", f"tested {k} of late {k}")
    )


def test_a_killed_process_is_explained(monkeypatch):
    monkeypatch.setattr(trainings.multiprocessing, "get_context", lambda kind: get_context("fork"))  # starts faster
    with pytest.raises(TrainingError, match="was killed, perhaps for want of memory; give the command again"):
        run_rows({"a": ("A", plan("a", SYNTHOCC, [], 1, Path("x")))}, 2, killed_run)


# ---------------------------------------------------------------- compare: configs as rows


def test_compare_is_the_same_mechanism(capsys):
    # market1501: no occlusion ratios to look up
    configs = [SYNTHOCC, str(CONFIGS / "clip_reid_baseline_synthocc.yaml")]
    command = ["compare", "--configs", *configs, "--name", "both", "--seeds", "2", "data.targets", "[market1501]"]
    assert main(command) == 0
    names = [line.split("|")[1].strip() for line in capsys.readouterr().out.split("\n") if line.startswith("| clip")]
    assert names == ["clip_reid_baseline_synthocc", "clip_reid_synthocc"]  # by Rank-1
    rows = json.loads(Path("log/both/results.json").read_text())["targets"]["market1501"]
    assert [row["difference"] for row in rows] == [None, None]
    assert main([*command, "--baseline", "clip_reid_baseline_synthocc"]) == 0
    rows = json.loads(Path("log/both/results.json").read_text())["targets"]["market1501"]
    assert rows[1]["difference"]["mAP"]["p"] < 0.01
    assert main([*command, "--baseline", "resnet"]) == 2
    assert "--baseline is 'resnet', expected one of clip_reid_synthocc," in capsys.readouterr().err


def test_compare_keeps_runs_and_takes_those_that_ablate_kept(monkeypatch):
    monkeypatch.setattr(trainings, "_given", lambda cfg: of_version("version 1", "market1501"))
    targets = ["data.targets", "[market1501]"]
    assert ablate("--seeds", "2", "--rows", "clip_reid", "--keep", "kept", *targets) == 0
    shutil.rmtree("runs")
    configs = [SYNTHOCC, str(CONFIGS / "clip_reid_baseline_synthocc.yaml")]
    command = ["compare", "--configs", *configs, "--name", "both", "--seeds", "2", "--keep", "kept", *targets]
    assert main(command) == 0
    assert made_in("log/both") == ["clip_reid_baseline_synthocc 1", "clip_reid_baseline_synthocc 2"]
    shutil.rmtree("log")
    assert main(command) == 0
    assert not Path("log/both/made").exists()


def test_runs_kept_in_a_file_are_in_the_table_and_in_no_page(monkeypatch, capsys):
    monkeypatch.setattr(trainings, "_given", lambda cfg: of_version("version 1", "market1501"))
    command = ["compare", "--configs", SYNTHOCC, "--name", "both", "--seeds", "1", "--keep", "kept.jsonl"]
    command += ["data.targets", "[market1501]"]
    assert main(command) == 0
    shutil.rmtree("log")
    capsys.readouterr()
    assert main(command) == 0
    told = "".join(capsys.readouterr())
    assert "1 of 1 runs are complete" in told and "could not be made" not in told
    assert Path("log/both/report.html").exists() and not Path("log/both/queries.html").exists()


def test_compare_takes_runs_of_other_tables():
    options = ["--seeds", "2", "data.targets", "[market1501]"]
    assert main(["ablate", "--config-file", SYNTHOCC, "--table", "prompts", "--rows", "clip_reid", *options]) == 0
    baseline = str(CONFIGS / "clip_reid_baseline_synthocc.yaml")
    assert main(["compare", "--configs", SYNTHOCC, baseline, "--name", "both", *options]) == 0
    made = sorted(folder.parent.name for folder in Path("log").rglob("seed*/"))
    assert made == ["clip_reid", "clip_reid", "clip_reid_baseline_synthocc", "clip_reid_baseline_synthocc"]
    rows = json.loads(Path("log/both/results.json").read_text())["targets"]["market1501"]
    found = {row["row"]: [run["seed"] for run in row["runs"]] for row in rows}
    assert found == {"clip_reid_synthocc": [1, 2], "clip_reid_baseline_synthocc": [1, 2]}


def test_the_histogram_is_a_row_that_nothing_was_trained_for(data, monkeypatch):
    monkeypatch.setattr(comparing, "_by_occlusion", lambda rows, cfg: [])  # it looks up images that the fake lacks
    options = ["--seeds", "1", "--histogram", "--root", str(data), "synthocc.size", "tiny"]
    assert main(["compare", "--configs", SYNTHOCC, "--name", "x", *options]) == 0
    page = json.loads(Path("log/x/results.json").read_text())
    (run,) = Path("log/x").rglob("metrics.json")
    assert page["machine"] == trainings.made_on(json.loads(run.read_text())["record"])  # of the trained run alone
    found = next(row for row in page["targets"]["synthocc"] if row["row"] == "histogram")["mean"]
    known = build(DATASETS, "synthocc", root=data, verbose=False, size="tiny")
    (_, q_pids, q_camids, *_), (_, g_pids, g_camids, *_) = zip(*known.query), zip(*known.gallery)
    cmc, mean_ap = evaluate_rank(_squared_distances(known), q_pids, g_pids, q_camids, g_camids)
    # pixels are normalised and rounded on their way
    assert (found["mAP"], found["rank1"]) == pytest.approx((mean_ap, cmc[0]), abs=0.01) and mean_ap > 0.1


def test_rank1_by_how_much_is_occluded(data):
    cfg = load_config(SYNTHOCC, ["data.root", str(data), "synthocc.size", "tiny"])
    known = build(DATASETS, "synthocc", root=data, verbose=False, size="tiny")
    ratios = np.array([known.annotation(path)["occlusion_ratio"] for path, *_ in known.query])
    found_first = np.where(ratios >= 0.45, 1, np.where(np.arange(len(ratios)) % 2, 1, 2))
    nothing, names = np.zeros(len(ratios)), np.array([Path(path).name for path, *_ in known.query])
    queries = PerQuery(names, nothing.astype(int), nothing.astype(int), nothing, found_first)
    ((_, _, (line,)),) = comparing._by_occlusion(
        [Row("a", "A", [replace(row("a", [1.0]).runs[0], queries={"synthocc": queries})])], cfg
    )
    bins = [ratios < 0.3, (ratios >= 0.3) & (ratios < 0.45), ratios >= 0.45]
    assert line == ["A", *(f"{100 * np.mean(found_first[inside] == 1):.1f}" for inside in bins)] and line[3] == "100.0"


def _squared_distances(known):
    """[Q, G], of the histograms of the files themselves."""
    sides = []
    for side in (known.query, known.gallery):
        images = (Image.open(path).convert("RGB").resize((64, 128), Image.Resampling.BILINEAR) for path, *_ in side)
        sides.append(np.stack([color_histogram(image, grey_world=True) for image in images]))
    return np.square(sides[0][:, None] - sides[1][None]).sum(axis=2)


def test_two_configs_of_one_name_are_refused(tmp_path, capsys):
    other = tmp_path / "clip_reid_synthocc.yaml"
    other.write_text(f"_base_: {SYNTHOCC}\n")
    assert main(["compare", "--configs", SYNTHOCC, str(other)]) == 2
    assert "two files have the same name" in capsys.readouterr().err


# ---------------------------------------------------------------- tables


def row(name, ap, images=None):
    images = np.array([f"{i}.jpg" for i in range(len(ap))]) if images is None else images
    queries = PerQuery(images, np.arange(len(ap)), np.zeros(len(ap), int), np.array(ap), np.ones(len(ap), int))
    figures = {"mAP": float(np.mean(ap)), "rank1": 1.0, "rank5": 1.0, "rank10": 1.0}
    return Row(name, name, [Run(1, 1.0, "p", {"toy": figures}, {"toy": queries}, {"toy": "v"}, "here")])


def test_rows_tested_on_other_queries_are_not_compared():
    rows = [row("a", [0.1, 0.2]), row("b", [0.1, 0.2], np.array(["x.jpg", "1.jpg"]))]
    with pytest.raises(DataError, match="b and a were tested on different queries of toy"):
        Report("t", rows, Path("x"), "c", "a")


def test_figures_nobody_published_are_dashes():
    assert str(Published({"mAP": 67.2, "rank1": None, "rank5": None, "rank10": None}, "s")) == "67.2 / —"
    assert str(Published({"mAP": None, "rank1": 94.9, "rank5": None, "rank10": 99.0}, "s")) == "— / 94.9 / — / 99.0"
    assert spread([0.5]) == "50.0" and spread([0.5, 0.52]) == "51.0 ± 1.4"


def test_a_plan_needs_a_seed():
    with pytest.raises(ConfigError, match="--seeds is -1"):
        plan("a", SYNTHOCC, [], -1, Path("x"))
