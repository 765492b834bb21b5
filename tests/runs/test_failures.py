"""What the machine does to a run is said in a sentence, and a second Ctrl-C shows nothing."""

import errno
import os
import subprocess
import sys
import threading
import urllib.error
from pathlib import Path

import pytest
import torch

from occplug import torchreid_host as host
from occplug.cli import run
from occplug.config import default_config
from occplug.engine.stock import stock_engine
from occplug.errors import CheckpointError, ConfigError, OutputError, TrainingError
from occplug.methods._stock import StockModel
from occplug.runs.failures import LogFile, failures_named

ROOT = Path(__file__).parents[2]


KILLED = """
import os, signal, sys, torch
from occplug.cli import run
from occplug.runs.failures import failures_named

class Fatal(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return index

def command(argv):
    with failures_named("log/run"):
        for _ in torch.utils.data.DataLoader(Fatal(), batch_size=1, num_workers=1):
            pass

sys.exit(run("train", command, []))
"""


def test_a_killed_reading_process_is_named():
    """As the system does when memory runs out; torch tells the main process wherever it happens to be."""
    done = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, cwd=ROOT, timeout=200)
    assert done.returncode == 2, done.stderr
    assert "a process that reads images has ended" in done.stderr and "lower data.workers" in done.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_under_tensorboard_is_named(number):
    """It writes from a thread of its own, and the error it hands on names no file."""
    with pytest.raises(OutputError, match="log/run: a file of the run could not be written: .*; free some space"):
        with failures_named("log/run"):
            raise OSError(number, os.strerror(number))


def test_memory_of_the_gpu_is_named():
    with pytest.raises(TrainingError, match="no memory is left on the GPU .*lower train.batch_size or test.batch_size"):
        with failures_named("log/run"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        EOFError(),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
    ],
)
def test_all_signs_of_a_killed_reading_process(error):
    with pytest.raises(TrainingError, match="a process that reads images has ended"), failures_named("log/run"):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("a bug"), OSError(errno.EACCES, "no"), ValueError("x"), KeyError("y")])
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as caught, failures_named("log/run"):
        raise error
    assert caught.value is error


def test_a_log_that_cannot_be_written_says_so_once(tmp_path, capsys):
    import logging

    handler = LogFile(tmp_path / "train.log")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    handler.stream.close()
    handler.stream = type("Full", (), {"write": full, "flush": full, "close": lambda self: None})()
    for text in ("one", "two"):
        handler.emit(logging.LogRecord("occplug", logging.INFO, "", 0, text, (), None))
    said = capsys.readouterr().err
    assert said.count("train.log could not be written: [Errno 28] No space left on device") == 1
    assert "Traceback" not in said


# ---- torchreid's models


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("[Errno -3] Temporary failure in name resolution"),
        FileNotFoundError(2, "No such file or directory", "osnet_x0_25_imagenet.pth"),
        EOFError("Ran out of input"),
        RuntimeError("PytorchStreamReader failed reading zip archive"),
    ],
)
def test_stock_weights_that_cannot_be_downloaded_are_named(monkeypatch, error):
    def build(num_classes, loss, pretrained, use_gpu):
        raise error

    monkeypatch.setitem(host.STOCK_MODELS, "osnet_x0_25", build)
    message = "model.pretrained is True, and torchreid could not get the ImageNet weights of osnet_x0_25 "
    with pytest.raises(CheckpointError, match=message):
        host.build_stock_model("osnet_x0_25", 4, "softmax", True, False)
    with pytest.raises(type(error)):  # nothing is downloaded then, so it is something else
        host.build_stock_model("osnet_x0_25", 4, "softmax", False, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train.optim", "sgd", "sgd.nesterov", True, "sgd.momentum", 0.0], "Nesterov .*change train.lr, train.optim"),
        (["train.optim", "sgd", "sgd.nesterov", True, "sgd.dampening", 0.5], "Nesterov .*change train.lr, train.optim"),
        (["train.stepsize", []], "change train.lr_scheduler, train.stepsize, train.gamma or"),
    ],
)
def test_settings_that_torch_refuses_are_named(options, message, tmp_path):
    cfg = default_config("resnet50", opts=options)
    with pytest.raises(ConfigError, match=f"torchreid cannot train with these settings .*{message}"):
        stock_engine(cfg, None, StockModel(torch.nn.Linear(2, 2), 2), tmp_path, torch.device("cpu"))


# ---- the command line


@pytest.mark.parametrize("processes", ["2", "8"])
def test_a_command_of_one_process_refuses_several(processes, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert run("synthocc", lambda argv: pytest.fail("it ran"), []) == 2
    said = capsys.readouterr().err
    assert f"synthocc works in one process, and torchrun has started {processes} (WORLD_SIZE)" in said


@pytest.mark.parametrize("processes", ["1", "", "many"])
def test_one_process_is_no_fault(processes, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", processes)
    assert run("synthocc", lambda argv: None, []) == 0


def test_a_second_ctrl_c_shows_no_traceback():
    """The first one ends the command; the second meets the process on its way out."""
    code = (
        "import atexit, os, signal, sys, time; from occplug.cli import run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits that it is ignored
        "atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.2)))\n"
        "def command(argv): os.kill(os.getpid(), signal.SIGINT); time.sleep(5)\n"
        "sys.exit(run('train', command, []))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 1 and done.stderr == "\noccplug train: interrupted\n"


@pytest.mark.parametrize(
    ("error", "is_told"), [(OSError(28, "full"), False), (OSError(5, "i/o"), True), (ValueError("x"), True)]
)
def test_a_thread_whose_disk_is_full_prints_no_traceback(error, is_told, monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    hook = threading.excepthook

    def fails():
        raise error

    with failures_named("log/run"):
        thread = threading.Thread(target=fails)
        thread.start()
        thread.join()
    assert [args.exc_value for args in told] == ([error] if is_told else []) and threading.excepthook is hook
