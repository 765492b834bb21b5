"""The commands as a user gives them, on SynthOcc tiny: a run's files, resuming, and mistakes."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from occplug.cli import main
from occplug.config import load_config
from occplug.evaluation import read_per_query

ROOT = Path(__file__).parents[2]
SHORT = ["synthocc.size", "tiny", "data.workers", "0", "train.batch_size", "16", "method.stage1.epochs", "1"]
SHORT += ["method.stage2.epochs", "1"]


def train(data, folder, *options, config="clip_reid_synthocc"):
    return main(["train", "--config-file", str(ROOT / f"configs/{config}.yaml"), "--root", str(data), *SHORT,
                 "data.save_dir", str(folder), *options])  # fmt: skip


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert train(data, folder) == 0
    return folder


def test_a_run_leaves_what_the_interfaces_promise(run):
    names = {p.name for p in run.iterdir()}
    assert {"config.yaml", "train.log", "metrics.json", "checkpoints", "tensorboard"} <= names
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["method"] == "clip_reid" and metrics["config_file"].endswith("clip_reid_synthocc.yaml")
    figures = metrics["targets"]["synthocc"]
    assert set(figures) == {"mAP", "rank1", "rank5", "rank10", "rank20", "num_query", "num_query_valid", "num_gallery"}
    assert (figures["num_query"], figures["num_gallery"]) == (24, 96) and 0 < figures["mAP"] < 1
    assert [(s["name"], s["epochs"]) for s in metrics["stages"]] == [("stage1", 1), ("stage2", 1)]
    queries = read_per_query(run / "per_query/synthocc.npz")
    assert np.nanmean(queries.ap) == pytest.approx(figures["mAP"])
    assert np.nanmean(queries.rank1) == pytest.approx(figures["rank1"])
    assert all(image.startswith(f"{pid:04d}_c") for image, pid in zip(queries.image, queries.pid))
    counts = metrics["data"]["synthocc"]
    assert (counts["train"], counts["query"], counts["gallery"], counts["train_ids"]) == (128, 24, 96, 16)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["last.pth", "stage1.pth", "stage2.pth"]


def test_the_saved_config_reloads_to_itself(run):
    cfg = load_config(run / "config.yaml")
    assert cfg.train.batch_size == 16 and cfg.method.stage2.epochs == 1


def test_testing_the_checkpoint_gives_the_runs_figures(run, data, tmp_path):
    arguments = ["--config-file", str(run / "config.yaml"), "--weights", str(run / "checkpoints/stage2.pth")]
    assert main(["test", *arguments, "data.save_dir", str(tmp_path)]) == 0
    trained = json.loads((run / "metrics.json").read_text())["targets"]
    assert json.loads((tmp_path / "test/metrics.json").read_text())["targets"] == trained


def test_reranking_and_pictures(run, tmp_path):
    arguments = ["--config-file", str(run / "config.yaml"), "--weights", str(run / "checkpoints/stage2.pth")]
    assert main(["test", *arguments, "--rerank", "--visrank", "data.save_dir", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "test/metrics.json").read_text())
    assert "re-ranking k1 = 20, k2 = 6, lambda = 0.3 of squared distances;" in metrics["protocol"]
    assert len(list((tmp_path / "visrank_synthocc").rglob("*.jpg"))) == 24


def test_a_checkpoint_of_another_class_count_is_explained(run, data, capsys):
    """Resuming needs the classifier of the training set; here two stages' shapes and counts differ."""
    state = torch.load(run / "checkpoints/stage2.pth", weights_only=True)
    state["pids"] = state["pids"][:-1]
    torch.save(state, run / "fewer.pth")
    assert main(["test", "--config-file", str(run / "config.yaml"), "--weights", str(run / "fewer.pth"),
                 "data.save_dir", str(run / "x")]) == 2  # fmt: skip
    error = capsys.readouterr().err
    assert (
        "fewer.pth does not fit CLIPReID: it was trained with another number of identities (another data set?)" in error
    )
    assert "neck.classifier.weight is [16, 128] in the file and [15, 128] in the model" in error


def test_a_checkpoint_of_another_stride_is_explained(run, tmp_path, capsys):
    status = main(["test", "--config-file", str(run / "config.yaml"), "--weights", str(run / "checkpoints/stage2.pth"),
                   "backbone.stride", "4", "data.save_dir", str(tmp_path)])  # fmt: skip
    assert status == 2
    error = capsys.readouterr().err
    assert "data.height, data.width and backbone.stride 'for a grid of 16 x 8', and this run has" in error
    assert "set data.height, data.width and backbone.stride as in the file" in error


def test_a_folder_with_a_run_is_not_overwritten(run, data, capsys):
    assert train(data, run) == 2
    assert "already holds a run: add --resume to go on with it, or set data.save_dir" in capsys.readouterr().err


def test_a_folder_that_another_process_trains_in_is_left_alone(data, tmp_path, capsys):
    with FileLock(tmp_path / ".lock"):
        assert train(data, tmp_path) == 2
    told = f"another process trains in {tmp_path} (a process that does not say which it is)"
    assert f"{told}; wait for it, or set data.save_dir" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == [".lock"]


def test_resuming_a_finished_run_changes_nothing(run, data):
    before = torch.load(run / "checkpoints/stage2.pth", weights_only=True)["state_dict"]
    assert train(data, run, "--resume") == 0
    after = torch.load(run / "checkpoints/stage2.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_run_goes_on_with_changed_keys_which_are_on_record(run, data, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    before = (tmp_path / "run/config.yaml").read_text()
    for key, value, why in (
        ("method.stage1.lr", "0.5", "the stage stage1 is trained already"),
        ("train.seed", "5", "images and their order would be of neither run"),
    ):
        assert train(data, tmp_path / "run", "--resume", "method.stage2.epochs", "2", key, value) == 2
        said = capsys.readouterr().err
        assert f"{key} is {value}, and {tmp_path / 'run/checkpoints/last.pth'} was trained with" in said and why in said
        assert (tmp_path / "run/config.yaml").read_text().splitlines()[2:] == before.splitlines()[2:]
    options = ["method.stage2.epochs", "2", "method.stage2.lr", "1e-9"]
    assert train(data, tmp_path / "run", "--resume", *options) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    lr = load_config(run / "config.yaml").method.stage2.lr
    changed = {"method.stage2.epochs": [1, 2], "method.stage2.lr": [lr, 1e-9]}
    assert metrics["resumed"] == [{"stage": "stage2", "epoch": 1, "changed": changed}]
    assert [(stage["name"], stage["epochs"]) for stage in metrics["stages"]] == [("stage1", 1), ("stage2", 2)]
    assert load_config(tmp_path / "run/config.yaml").method.stage2.lr == 1e-9
    assert "method.stage2.epochs 1 -> 2" in (tmp_path / "run/train.log").read_text()


def test_a_stock_model_trains_with_torchreids_engine(data, tmp_path):
    options = ["synthocc.size", "tiny", "data.workers", "0", "train.max_epoch", "1", "data.save_dir", str(tmp_path)]
    command = ["train", "--config-file", str(ROOT / "configs/osnet_x0_25_synthocc.yaml"), "--root", str(data), *options]
    assert main(command) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["method"] == "osnet_x0_25" and metrics["stages"][0]["epochs"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "occplug: there is no command 'fly'"),
        (["train", "--config-file", "configs/none.yaml"], "configs/none.yaml"),
        (["train", "--config-file", "configs/clip_reid_synthocc.yaml", "--faster"], "there is no option --faster"),
        (["train", "--config-file", "configs/clip_reid_synthocc.yaml", "train.sede", "3"], "train.seed"),
        (["train", "--config-file", "configs/clip_reid_market.yaml", "--root", "nowhere"], "nowhere"),
        (
            ["show-augment", "--images", str(ROOT / "occplug/assets/occluders"), "--output", "/dev/null/x.png"],
            "/dev/null",
        ),
        (["show-augment", "--images", ".", "--seed", "-1"], "--seed at least 0"),
        (
            ["test", "--config-file", "configs/clip_reid_synthocc.yaml", "--weights", "no.pth"],
            "no.pth: there is no such checkpoint",
        ),
    ],
)
def test_a_mistake_exits_with_2_and_one_message(arguments, message, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = (
        [sys.executable, str(ROOT / "tools/train.py")]
        if arguments[0] == "train"
        else [sys.executable, "-m", "occplug", arguments[0]]
    )
    arguments = [str(ROOT / a) if a.startswith("configs/clip") else a for a in arguments[1:]]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and "Traceback" not in done.stderr


def test_flags_with_several_values_leave_the_pairs_alone(tmp_path):
    from occplug.cli.arguments import config_parser, parse_config

    file = str(ROOT / "configs/clip_reid_synthocc.yaml")
    _, cfg = parse_config(
        config_parser("train", ""), ["--config-file", file, "-t", "synthocc", "market1501", "train.seed", "5"]
    )
    assert list(cfg.data.targets) == ["synthocc", "market1501"] and cfg.train.seed == 5
    _, cfg = parse_config(config_parser("train", ""), ["--config-file", file, "-t", "synthocc", "use_gpu", "False"])
    assert list(cfg.data.targets) == ["synthocc"] and not cfg.use_gpu


@pytest.mark.slow
@pytest.mark.parametrize("config", sorted(p.stem for p in (ROOT / "configs").glob("*.yaml")))
def test_every_config_goes_through_a_dry_run_at_full_size(config, capsys):
    assert main(["train", "--config-file", str(ROOT / f"configs/{config}.yaml"), "--dry-run"]) == 0
    assert "dry run of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "told"),
    [
        (["-t", "nope"], 2, "'nope'"),
        (["sampler.num_instances", "1", "sampler.train_sampler", "RandomSampler"], 0, "dry run of"),
    ],
)
def test_a_dry_run_knows_data_sets_and_gives_every_query_a_match(options, code, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = str(ROOT / "configs/clip_reid_synthocc.yaml")
    assert main(["train", "--config-file", config, "--dry-run", *options]) == code
    assert told in "".join(capsys.readouterr())


def test_a_dry_run_needs_no_data_and_says_what_it_took(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = str(ROOT / "configs/clip_reid_synthocc.yaml")
    before = time.process_time()
    assert main(["train", "--config-file", config, "--root", "nowhere", "--dry-run"]) == 0
    cost = re.search(r"2 stages and a test went through; (\d+) s of processor time", capsys.readouterr().out)
    assert cost and 1 <= int(cost[1]) <= round(time.process_time() - before)  # of the run, not of the process
    assert list(tmp_path.iterdir()) == []
