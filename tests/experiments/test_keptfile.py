"""Kept runs in one file: what a folder of them holds, added to by several processes."""

import base64
import json
import multiprocessing
import zlib

import numpy as np
import pytest

from occplug.cli import main
from occplug.errors import DataError
from occplug.evaluation import PerQuery, read_per_query
from occplug.experiments.keptfile import add_runs, as_folder, read_runs


def keep(folder, name="a-0123/seed1", ap=(0.1, 1 / 3, float("nan"))):
    """A kept run in `folder`; returns its files."""
    run = folder / name
    (run / "per_query").mkdir(parents=True)
    run.joinpath("config.yaml").write_text("data:\n  root: 'ä'\n", encoding="utf-8")
    run.joinpath("kept.json").write_text(json.dumps({"tests": None, "after": "b-4567/seed1"}, indent=2) + "\n")
    figures = {"mAP": float(np.nanmean(ap)), "rank1": 0.5, "rank20": 0.5, "num_query": 3}
    metrics = {"targets": {"synthocc": figures}, "seed": int(name[-1])}
    run.joinpath("metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    images, hits = np.array(["x.jpg", "längst.jpg", "y.jpg"]), np.array([1, 70_000, 0])
    PerQuery(images, np.array([5, 5, 9]), np.array([0, 1, 2]), np.array(ap), hits).write(
        run / "per_query" / "synthocc.npz"
    )
    return run


def test_a_file_holds_exactly_what_the_folder_does(tmp_path):
    run = keep(tmp_path / "folder")
    assert add_runs(tmp_path / "kept" / "runs.jsonl", tmp_path / "folder") == ["a-0123/seed1"]
    with as_folder(tmp_path / "kept" / "runs.jsonl") as folder:
        again = folder / "a-0123/seed1"
        for name in ("config.yaml", "kept.json", "metrics.json"):
            assert (again / name).read_bytes() == (run / name).read_bytes()
        before, after = (read_per_query(each / "per_query/synthocc.npz") for each in (run, again))
        for name, values in vars(before).items():
            now = getattr(after, name)
            assert now.dtype == values.dtype and now.tobytes() == values.tobytes(), name
    assert not folder.exists()


def test_what_is_added_to_the_folder_is_appended_also_after_a_failure(tmp_path):
    file = tmp_path / "runs.jsonl"
    keep(tmp_path / "folder")
    add_runs(file, tmp_path / "folder")
    before = file.read_text()
    with pytest.raises(KeyError), as_folder(file) as folder:
        keep(folder, "b-4567/seed2")
        raise KeyError
    assert file.read_text().startswith(before) and list(read_runs(file)) == ["a-0123/seed1", "b-4567/seed2"]
    with as_folder(tmp_path / "folder") as folder:
        assert folder == tmp_path / "folder"


def _add(file, folder):
    add_runs(file, folder)


def test_processes_that_add_at_the_same_time_lose_nothing(tmp_path):
    folders = [tmp_path / str(number) for number in range(4)]
    for number, folder in enumerate(folders):
        keep(folder, "shared-1/seed1")
        keep(folder, f"row-{number}/seed1")
    file, context = tmp_path / "runs.jsonl", multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(file, folder)) for folder in folders]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    names = [json.loads(line)["run"] for line in file.read_text().splitlines()]
    assert sorted(names) == ["row-0/seed1", "row-1/seed1", "row-2/seed1", "row-3/seed1", "shared-1/seed1"]


def test_the_command_collects_folders_and_files(tmp_path, capsys):
    keep(tmp_path / "one", "a-1/seed1")
    keep(tmp_path / "two", "b-2/seed1")
    add_runs(tmp_path / "two.jsonl", tmp_path / "two")
    words = [str(tmp_path / name) for name in ("one", "two.jsonl")]
    for added in (1, 0):
        assert main(["keep", *words, "--to", str(tmp_path / "all.jsonl")]) == 0
        assert capsys.readouterr().out.count(f": {added} runs added") == 2
    assert list(read_runs(tmp_path / "all.jsonl")) == ["a-1/seed1", "b-2/seed1"]
    assert main(["keep", str(tmp_path / "none"), "--to", str(tmp_path / "all.jsonl")]) == 2
    assert "there is no such folder or file of kept runs" in capsys.readouterr().err
    assert main(["keep", str(tmp_path / "one"), "--to", str(tmp_path)]) == 2
    assert "expected a file whose name ends in .jsonl" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ['{"run": "a"}', "{", "[]", "<<<<<<< HEAD"])
def test_a_damaged_line_is_named(tmp_path, damage):
    keep(tmp_path / "folder")
    file = tmp_path / "runs.jsonl"
    add_runs(file, tmp_path / "folder")
    file.write_text(file.read_text() + damage + "\n")
    with pytest.raises(DataError, match=r"runs.jsonl, line 2 is damaged .*; delete the line"):
        read_runs(file)


@pytest.mark.parametrize("name", ["../outside/seed1", "/tmp/outside/seed1", "a/../../outside/seed1", ".", "", 5, None])
def test_a_run_is_never_unpacked_outside_its_folder(tmp_path, name):
    keep(tmp_path / "folder")
    file = tmp_path / "runs.jsonl"
    add_runs(file, tmp_path / "folder")
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "run": name}) + "\n")
    with pytest.raises(DataError, match=r"runs.jsonl, line 1 is damaged"):
        read_runs(file)


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({"mAP": 0.99}, "its mAP of synthocc is 0.99, and its queries have 0.216667"),
        ({"mAP": float("nan")}, "its mAP of synthocc is nan"),
        ({"rank1": 1.0}, "its rank1 of synthocc is 1.0, and its queries have 0.500000"),
        ({"rank20": 1.0}, "its rank20"),
    ],
)
def test_figures_that_are_not_those_of_the_queries_are_named(tmp_path, figures, told):
    keep(tmp_path / "folder")
    file = tmp_path / "runs.jsonl"
    add_runs(file, tmp_path / "folder")
    content = json.loads(file.read_text())
    content["metrics"]["targets"]["synthocc"].update(figures)
    file.write_text(json.dumps(content) + "\n")
    with pytest.raises(DataError, match=rf"runs.jsonl: the run a-0123/seed1 is damaged .*{told}"), as_folder(file):
        pass
    content["metrics"]["seed"] = 7
    file.write_text(json.dumps(content) + "\n")
    with pytest.raises(DataError, match="its metrics are of seed 7, and its name says seed1"), as_folder(file):
        pass


def packed(kind, content) -> str:
    return f"{kind}:{base64.b85encode(content).decode()}"


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (packed("<f8", zlib.compress(bytes(300 << 20), 9)), "takes more than 67,108,864 bytes unpacked"),
        (packed("<f8", zlib.compress(bytes(80))[:-6]), "is cut off"),
        (packed("<f8", b"no zlib"), "incorrect header check"),
        ("<f8:\x00", "bad base85"),
        (packed("<q9", zlib.compress(bytes(8))), "data type"),
        (packed("<f8", zlib.compress(bytes(7))), "buffer size must be a multiple"),
        (5, "has no attribute"),
    ],
)
def test_damaged_figures_of_a_kept_run_are_named(tmp_path, column, told):
    keep(tmp_path / "folder")
    file = tmp_path / "runs.jsonl"
    add_runs(file, tmp_path / "folder")
    content = json.loads(file.read_text())
    next(iter(content["queries"].values()))["ap"] = column
    file.write_text(json.dumps(content) + "\n")
    with pytest.raises(DataError, match=rf"runs.jsonl: the run .* is damaged \(.*{told}"), as_folder(file):
        pass
