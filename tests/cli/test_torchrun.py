"""The command under torchrun: the weights of one process, one message when a process dies, and a run that goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
pytestmark = pytest.mark.slow


def command(data, folder, *options, ranks=2):
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
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
        assert (found.float() - value.float()).abs().max() < 1e-5, name


def test_two_processes_train_what_one_does_and_a_killed_run_goes_on(data, tmp_path):
    assert run(command(data, tmp_path / "one", ranks=1)).returncode == 0
    done = run(command(data, tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results are in") == 1
    check_near(tmp_path / "two", tmp_path / "one")

    folder = tmp_path / "killed"
    group = subprocess.Popen(command(data, folder), cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while not (folder / "checkpoints" / "stage1.pth").exists():
        time.sleep(0.2)
    children = Path(f"/proc/{group.pid}/task/{group.pid}/children").read_text().split()
    ranks = [pid for pid in children if "tools/train.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(int(ranks[-1]), signal.SIGKILL)
    told = group.communicate(timeout=600)[1]
    assert group.returncode != 0 and told.count("occplug: another process of this run has ended") == 1
    assert run(command(data, folder, "--resume", ranks=1)).returncode == 0
    check_near(folder, tmp_path / "one")


def test_a_mistake_is_told_once(data, tmp_path):
    done = run(command(data, tmp_path, "train.batch_size", "15", "sampler.num_instances", "3"))
    assert done.returncode != 0 and done.stderr.count("cannot be dealt evenly to 2 of them") == 1
