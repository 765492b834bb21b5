"""Which kept run is that of a training: settings, sources, and the package's files it was made with."""

import json
import logging

import numpy as np
import pytest

from occplug.cli import main
from occplug.config import default_config, load_config, save_config
from occplug.config.defaults import BACKBONE_FACTS
from occplug.errors import ConfigError, DataError
from occplug.evaluation import PerQuery
from occplug.experiments.kept import KeptRuns
from occplug.experiments.keptfile import add_runs, as_folder, read_runs
from occplug.experiments.trainings import Training, known_runs
from occplug.runs import record


def planned(folder, name="clip_reid_synthocc", options=(), **more):
    cfg = load_config(name, [*options, "train.seed", 1, "data.save_dir", str(folder)])
    return Training("row", 1, cfg, name, **more)


def finish(training, files="today"):
    """Leave what a complete training leaves, but for its weights; `files` None: as a version did that did not say."""
    folder = training.folder
    (folder / "per_query").mkdir(parents=True)
    save_config(training.cfg, folder / "config.yaml")
    what = {"machine": "m", "versions": {"torch": "2"}, "date": "2026-01-01"}
    if files is not None:
        what["embedded"] = training.embedded if files == "today" else files
    metrics = {"seed": 1, "protocol": "p", "targets": {"synthocc": {"mAP": 0.5}}, "stages": [], "data": {}}
    (folder / "metrics.json").write_text(json.dumps({**metrics, "record": what}))
    one = np.array([1])
    PerQuery(np.array(["x.jpg"]), one, one, np.array([0.5]), one).write(folder / "per_query" / "synthocc.npz")
    return training


@pytest.mark.parametrize(
    ("name", "options", "files"),
    [
        ("clip_reid_synthocc", [], ["clip_vit_tiny.safetensors"]),
        ("clip_reid_synthocc", ["backbone.weights", "none"], []),
        ("osnet_x0_25_synthocc", [], []),
        ("osnet_x0_25_synthocc", ["data.transforms", "[random_flip, oia]"], ["occluder_categories.yaml", "occluders"]),
        (
            "osnet_x0_25_synthocc",
            ["data.transforms", "[rwoa]", "augment.rwoa.library", "x"],
            ["occluder_categories.yaml"],
        ),
        (
            "dpl_reid_synthocc",
            [],
            ["clip_vit_tiny.safetensors", "lsnet_mini.safetensors", "occluder_categories.yaml", "occluders"],
        ),
        ("clip_reid_occduke", [], []),
        ("clip_reid_vit_mini_synthocc", [], ["clip_vit_tiny.safetensors", "vit_mini.safetensors"]),
        ("clip_reid_swin_mini_synthocc", [], ["clip_vit_tiny.safetensors", "solider_swin_mini.safetensors"]),
        ("baseline_vit_mini_synthocc", ["backbone.weights", "none", "prompts.weights", "none"], []),
    ],
)
def test_the_packages_files_of_a_config(name, options, files):
    found = record.embedded(load_config(name, options))
    assert sorted(found) == files and all(len(digits) == 12 for digits in found.values())


def test_every_tower_with_weights_in_the_package_is_known_by_its_file():
    """Otherwise a run of other weights would be taken for today's."""
    towers = [name for name, (_, weights) in BACKBONE_FACTS.items() if weights == "embedded"]
    bare = ["method.hem", False, "method.mask", "none"]  # which every tower can
    cfg = [default_config("dpm", name, bare) for name in towers]
    assert [f"{name}.safetensors" in record.embedded(each) for name, each in zip(towers, cfg)] == [True] * len(towers)


def test_a_kept_run_is_that_of_todays_files(tmp_path, monkeypatch):
    training = finish(planned(tmp_path / "run"))
    assert KeptRuns(tmp_path / "kept").keep(training) == KeptRuns(tmp_path / "kept").keep(training)
    taken = KeptRuns(tmp_path / "kept").take(planned(tmp_path / "other"))
    assert taken.elsewhere is not None and taken.is_complete()
    assert KeptRuns(tmp_path / "kept").take(planned(tmp_path / "o", options=["train.batch_size", 32])).elsewhere is None

    monkeypatch.setattr(record, "_digits", lambda path: "0123456789ab")  # the next version has another tiny CLIP
    later = planned(tmp_path / "later")
    assert KeptRuns(tmp_path / "kept").take(later) is later
    finish(later)
    assert KeptRuns(tmp_path / "kept").keep(later) != taken.elsewhere  # both stay
    assert KeptRuns(tmp_path / "kept").take(later).elsewhere not in (None, taken.elsewhere)


def test_a_kept_run_whose_config_was_changed_is_named(tmp_path):
    with as_folder(tmp_path / "runs.jsonl") as folder:
        there = KeptRuns(folder).keep(finish(planned(tmp_path / "run"))).relative_to(folder).as_posix()
    (line,) = read_runs(tmp_path / "runs.jsonl").values()
    line["config"] = line["config"].replace("batch_size: 64", "batch_size: 32")
    (tmp_path / "runs.jsonl").write_text(json.dumps(line) + "\n")
    with (
        as_folder(tmp_path / "runs.jsonl") as folder,
        pytest.raises(DataError, match=f"the kept run {there} is damaged"),
    ):
        KeptRuns(folder).take(planned(tmp_path / "other"))


def test_a_run_that_needs_none_of_them_is_found_under_its_name_of_before(tmp_path, monkeypatch):
    training = finish(planned(tmp_path / "run", "osnet_x0_25_synthocc"), files=None)
    found = KeptRuns(tmp_path / "kept").keep(training)
    monkeypatch.setattr(record, "_digits", lambda path: "0123456789ab")
    assert KeptRuns(tmp_path / "kept").take(training).elsewhere == found


def test_runs_that_build_on_a_run_of_other_files_are_others_too(tmp_path, monkeypatch):
    first = finish(planned(tmp_path / "first"))
    test = finish(planned(tmp_path / "test", options=["test.rerank", True], tests=first), files=None)
    KeptRuns(tmp_path / "kept").keep(test)
    assert KeptRuns(tmp_path / "kept").take(test).elsewhere is not None
    monkeypatch.setattr(record, "_digits", lambda path: "0123456789ab")
    assert KeptRuns(tmp_path / "kept").take(test) is test


def test_a_run_that_does_not_say_is_made_again_until_somebody_says_so(tmp_path, caplog, capsys):
    training, file = finish(planned(tmp_path / "run"), files=None), tmp_path / "runs.jsonl"
    with as_folder(file) as folder:
        KeptRuns(folder).keep(training)
    name = next(iter(read_runs(file)))
    with as_folder(file) as folder, caplog.at_level(logging.WARNING, "occplug"):
        assert KeptRuns(folder).take(training) is training
    assert f"the kept run {name} does not say with which weights" in caplog.text and "--same-weights" in caplog.text

    for told in (1, 0):
        assert main(["keep", str(file), "--to", str(file), "--same-weights"]) == 0
        assert f"{told} runs now say what they were made with" in capsys.readouterr().out
    with as_folder(file) as folder:
        assert KeptRuns(folder).take(training).elsewhere == folder / name
        assert add_runs(file, folder) == []


def test_a_merge_of_both_forms_leaves_the_line_that_says_it(tmp_path):
    training, file = finish(planned(tmp_path / "run"), files=None), tmp_path / "runs.jsonl"
    with as_folder(file) as folder:
        KeptRuns(folder).keep(training)
    before = file.read_text()
    assert main(["keep", str(file), "--to", str(file), "--same-weights"]) == 0
    after = file.read_text()
    assert before != after
    file.write_text(before + after)
    assert main(["keep", str(file), "--to", str(file), "--same-weights"]) == 0
    assert file.read_text() == after


def test_a_folder_with_a_run_of_other_files_is_refused(tmp_path):
    training = finish(planned(tmp_path / "log" / "row" / "seed1"), files={"clip_vit_tiny.safetensors": "0" * 12})
    with pytest.raises(ConfigError, match="holds a run made with another clip_vit_tiny.safetensors than this version"):
        training.is_complete()
    assert known_runs(tmp_path / "log") == {}
    early = finish(planned(tmp_path / "log2" / "row" / "seed1"), files=None)  # a version that did not say
    assert early.is_complete() and list(known_runs(tmp_path / "log2").values()) == [early.folder]
