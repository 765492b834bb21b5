"""The command under torchrun: the weights of one process, one message when a process dies, and a run that goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from occplug.config import default_config
from occplug.errors import CheckpointError
from occplug.runs import train

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
SLOW = pytest.mark.slow
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]

# of two starts the first is killed, the second computes something and ends by an error of all
STARTS = """
import os, signal, torch
from occplug.distributed import join_ranks
from occplug.errors import ConfigError
with join_ranks() as ranks:
    total = int(ranks.sum_(torch.ones(1)))
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and ranks.rank:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.objects(None)
    raise ConfigError(f"refused by {total} processes")
"""


def command(data, folder, *options, ranks=2, restarts=0):
    start = [*TORCHRUN, str(ranks), "--max-restarts", str(restarts)] if ranks > 1 else []
    sizes = ["synthocc.size", "tiny", "train.batch_size", "16", "method.stage1.epochs", "2", "data.workers", "0"]
    sizes += ["data.height", "64", "data.width", "32"]
    config = ["--config-file", "configs/clip_reid_synthocc.yaml", "--root", str(data), "data.save_dir", str(folder)]
    return [sys.executable, *start, "tools/train.py", *config, *sizes, "method.stage2.epochs", "2", *options]


def run(words):
    return subprocess.run(words, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=1500)


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.pth", weights_only=True)["state_dict"]


def check_near(folder, other):
    for name, value in weights(other).items():
        found = weights(folder)[name]
        if name.endswith("in_proj_bias"):  # the keys' share has no gradient but rounding, which Adam makes steps of
            found, value = (torch.cat([b.chunk(3)[0], b.chunk(3)[2]]) for b in (found, value))
        # of a whole tensor, as a single number may have no gradient but rounding, too
        assert (found.float() - value.float()).square().mean().sqrt() < 1e-5, name


def kill_one(group, file):
    """Kill the last process of the torchrun `group` as soon as its run has written `file`."""
    while not file.exists():
        assert group.poll() is None, group.communicate()
        time.sleep(0.2)
    children = Path(f"/proc/{group.pid}/task/{group.pid}/children").read_text().split()
    ranks = [pid for pid in children if "tools/train.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(int(ranks[-1]), signal.SIGKILL)


def test_torchrun_starts_again(tmp_path):
    script = tmp_path / "starts.py"
    script.write_text(STARTS)
    done = subprocess.run(
        [sys.executable, *TORCHRUN, "2", "--max-restarts", "1", str(script)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stderr.count("occplug: another process of this run has ended") == 1, done.stderr
    assert done.stderr.count("ConfigError: refused by 2 processes") == 1, done.stderr


@pytest.mark.parametrize("restarts", [None, "0", "2"])
def test_only_what_torchrun_may_start_again_resumes_without_a_state(restarts, tmp_path, monkeypatch):
    cfg = default_config("clip_reid", "clip_vit_tiny", ["data.save_dir", str(tmp_path)])
    if restarts is not None:
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    monkeypatch.setattr(train, "_train", lambda cfg, config_file, state, source, is_after: (state, is_after))
    if restarts == "2":
        assert train.train(cfg, resume=True) == (None, False)
        return
    with pytest.raises(CheckpointError, match="last.pth: nothing to resume from"):
        train.train(cfg, resume=True)


def test_an_interrupted_run_says_how_to_go_on():
    assert train._to_go_on(Path("log"), 1) == "occplug train --config-file log/config.yaml --resume"
    assert train._to_go_on(Path("log"), 2).startswith("the same torchrun command with --resume")


@SLOW
def test_a_killed_run_goes_on_by_itself_from_nothing_and_from_its_state(data, tmp_path):
    assert run(command(data, tmp_path / "one", ranks=1)).returncode == 0
    words = command(data, tmp_path / "two", "--resume", restarts=2)
    group = subprocess.Popen(
        words, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    kill_one(group, tmp_path / "two" / "train.log")  # before there is a state
    kill_one(group, tmp_path / "two" / "checkpoints" / "stage1.pth")
    shown, told = group.communicate(timeout=900)
    assert group.returncode == 0 and shown.count("results are in") == 1, told
    assert told.count("occplug: another process of this run has ended") == 2
    check_near(tmp_path / "two", tmp_path / "one")


@SLOW
def test_two_processes_train_what_one_does_and_a_killed_run_goes_on(data, tmp_path):
    assert run(command(data, tmp_path / "one", ranks=1)).returncode == 0
    done = run(command(data, tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results are in") == 1
    check_near(tmp_path / "two", tmp_path / "one")

    folder = tmp_path / "killed"
    group = subprocess.Popen(command(data, folder), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    kill_one(group, folder / "checkpoints" / "stage1.pth")
    told = group.communicate(timeout=600)[1]
    assert group.returncode != 0 and told.count("occplug: another process of this run has ended") == 1
    assert run(command(data, folder, "--resume", ranks=1)).returncode == 0
    check_near(folder, tmp_path / "one")


@SLOW
def test_a_mistake_is_told_once(data, tmp_path):
    done = run(command(data, tmp_path, "train.batch_size", "15", "sampler.num_instances", "3"))
    assert done.returncode != 0 and done.stderr.count("cannot be dealt evenly to 2 of them") == 1
