"""Paths of users, and files that are written whole or not at all."""

import ast
import errno
import logging
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import Timeout
from safetensors.torch import save_file

from occplug.embedding import Embedding
from occplug.engine import save_checkpoint
from occplug.errors import OccplugError, OutputError
from occplug.masks import making
from occplug.utils import files
from occplug.utils.files import clear_leftovers, user_path, write_atomically
from occplug.utils.processes import held, holder_of

ROOT = Path(__file__).parents[2]


def text(words="new"):
    return lambda temporary: temporary.write_text(words)


def refused(path, write=None) -> str:
    with pytest.raises(OutputError) as caught:
        write_atomically(path, write or text())
    return str(caught.value)


# ---------------------------------------------------------------------- `~` and names outside UTF-8


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield tmp_path / "home"
    assert list((tmp_path / "elsewhere").iterdir()) == []  # above all no folder named ~


def test_a_home_folder_is_meant_in_every_form(home):
    for given in ("~/a b", Path("~/a b"), b"~/a b", home / "a b"):
        assert user_path(given) == home / "a b"
    assert user_path("a~b/~") == Path("a~b/~") and user_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def test_configs_data_sets_weights_outputs_and_pictures_know_home(home):
    import numpy as np
    from PIL import Image

    from occplug.config import default_config, load_config, save_config
    from occplug.embedding import Embedding
    from occplug.engine import load_checkpoint, save_checkpoint
    from occplug.utils.imagefile import open_picture
    from occplug.utils.tensors import read_tensors

    cfg = default_config(opts=["data.save_dir", "~/log", "data.root=~/data", "masks.root", "~/m"])
    assert (cfg.data.save_dir, cfg.data.root) == (str(home / "log"), str(home / "data"))
    assert cfg.masks.root == str(home / "m")
    save_config(cfg, "~/c.yaml")
    assert load_config("~/c.yaml").data.save_dir == str(home / "log")
    save_checkpoint({"state_dict": {"a": torch.ones(2)}}, "~/w.pth")
    assert load_checkpoint("~/w.pth")["state_dict"]["a"].sum() == 2
    assert read_tensors("~/w.pth")[0]["a"].sum() == 2
    Embedding(torch.ones(1, 3)).save("~/e.safetensors")
    assert len(Embedding.load("~/e.safetensors")) == 1
    Image.fromarray(np.zeros((4, 2, 3), np.uint8)).save(home / "p.png")
    assert open_picture("~/p.png").size == (2, 4)


def test_paths_of_users_go_through_the_one_function():
    """No option of a command is a bare Path, and nobody else looks for home folders."""
    for file in [f for room in ("occplug", "pretraining", "benchmarks") for f in (ROOT / room).rglob("*.py")]:
        source = file.read_text()
        if file.name != "files.py" or file.parent.name != "utils":
            assert "expanduser" not in source, file
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.keyword) and node.arg == "type" and isinstance(node.value, ast.Name):
                assert node.value.id != "Path", f"{file}:{node.value.lineno}"


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def odd_names(folder: Path) -> None:
    """What occplug does with names that are no text; in a process of its own, as such names break pytest's reports."""
    from occplug.config import default_config, load_config, save_config
    from occplug.datasets.stock import Market1501
    from occplug.masks import cache, degrade, files
    from occplug.runs.session import start_logging
    from tests.datasets.trees import market_tree

    odd = os.fsdecode(b"caf\xe9")
    market_tree(folder / odd / "market1501", name="{:04d}_c{}s1_000151_01" + odd + ".jpg")
    data = Market1501(root=str(folder / odd), verbose=False)
    assert len(data.train) == 4 and re.fullmatch("[0-9a-f]{64}", data.fingerprint)
    start_logging(folder / "train.log")
    logging.getLogger("occplug").info("reading %s", data.train[0][0])
    assert "caf\\udce9" in (folder / "train.log").read_text(encoding="utf-8")
    assert cache._fingerprint([files.MaskFile(f"a/{odd}.npy", 1, 2)]) != cache._fingerprint([])
    assert degrade.degraded(torch.ones(2, 8, 4), "shifted", 0.1, f"a/{odd}.jpg").shape == (2, 8, 4)
    save_config(default_config(opts=["data.root", str(folder / odd)]), folder / "c.yaml")
    assert load_config(folder / "c.yaml").data.root == str(folder / odd)


def test_names_outside_utf8_are_listed_logged_and_saved(tmp_path):
    code = "import sys, pathlib; from tests.utils.test_files import odd_names; odd_names(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=200)
    assert done.returncode == 0, ascii(done.stderr)
    assert b"caf\\udce9" in done.stdout


# ---------------------------------------------------------------------- whole or not at all


def test_a_file_and_a_folder_appear_whole(tmp_path):
    write_atomically(tmp_path / "a/b.txt", lambda temporary: temporary.write_text("new"))
    (tmp_path / "c").mkdir()  # an empty folder is replaced

    def write(temporary):
        temporary.mkdir()
        (temporary / "one.txt").write_text("1")

    write_atomically(tmp_path / "c", write)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["a/b.txt", "c/one.txt"]


def _half_and_full(temporary):
    temporary.write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


def _folder_and_full(temporary):
    temporary.mkdir()
    _half_and_full(temporary / "one.txt")


def _torch_cannot(temporary):
    torch.save({"a": 1}, temporary / "missing/folder.pth")


def _safetensors_cannot(temporary):
    save_file({"a": torch.zeros(1)}, temporary / "missing/folder.safetensors")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (_half_and_full, "no space left on the disk"),
        (_folder_and_full, "no space left on the disk"),
        (_torch_cannot, "."),
        (_safetensors_cannot, "."),
    ],
)
def test_what_fails_leaves_nothing_and_says_why(tmp_path, write, reason):
    with pytest.raises(OutputError, match=f"x could not be written: .*{reason}.*nothing was left behind"):
        write_atomically(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/x", "full"])
def test_something_in_the_way_is_named(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/kept").write_text("kept")

    def write(temporary):
        temporary.mkdir()

    with pytest.raises(OutputError, match=f"{name} could not be written"):
        write_atomically(tmp_path / name, write)
    assert (tmp_path / "full/kept").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


def test_an_error_of_the_writer_passes_through(tmp_path):
    def write(temporary):
        temporary.write_text("half")
        raise ValueError("the writer's own")

    with pytest.raises(ValueError, match="the writer's own"):
        write_atomically(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_and_its_target_is_replaced_with_its_mode(tmp_path):
    (tmp_path / "far").mkdir()
    target, link, second = tmp_path / "far" / "t.json", tmp_path / "l.json", tmp_path / "ll.json"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    second.symlink_to(link)
    write_atomically(second, text("new"))
    assert link.is_symlink() and second.is_symlink() and target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640
    dangling = tmp_path / "d.json"
    dangling.symlink_to(tmp_path / "far" / "made.json")
    write_atomically(dangling, text("made"))
    assert (tmp_path / "far" / "made.json").read_text() == "made" and dangling.is_symlink()


def test_only_regular_files_are_replaced(tmp_path):
    device = os.stat("/dev/null")
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    for path in ("/dev/null", link):
        assert refused(path) == f"{path} could not be written: it is a device or a pipe; name a regular file"
    assert os.stat("/dev/null").st_rdev == device.st_rdev and link.is_symlink()
    os.mkfifo(tmp_path / "pipe")
    assert "it is a device or a pipe" in refused(tmp_path / "pipe")
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    assert "it is a link in a circle" in refused(tmp_path / "one")
    assert not list(tmp_path.glob(".*.part"))


def under_a_limit(folder: Path) -> None:
    """Save more than a file may have; the messages go to `told`."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    tensor = torch.zeros(100, 100)
    saves = {
        "e.safetensors": lambda path: Embedding(tensor).save(path),
        "c.pth": lambda path: save_checkpoint({"state_dict": {"a": tensor}}, path),
        "m.npy": lambda path: making._save(path, tensor.numpy()),
        "t.json": lambda path: write_atomically(path, text("x" * 30_000)),
    }
    for name, save in saves.items():
        try:
            save(folder / name)
        except OccplugError as error:
            with (folder.parent / "told").open("a") as file:
                file.write(f"{error}\n")


def test_a_file_size_limit_is_a_message_for_every_writer(tmp_path):
    (tmp_path / "x").mkdir()
    process = multiprocessing.get_context("fork").Process(target=under_a_limit, args=(tmp_path / "x",))
    process.start()
    process.join(60)
    lines = (tmp_path / "told").read_text().splitlines()
    assert [Path(line.split(" could not be written: ")[0]).name for line in lines] == [
        "e.safetensors", "c.pth", "m.npy", "t.json",
    ]  # fmt: skip
    assert all(line.endswith("; nothing was left behind") for line in lines) and os.listdir(tmp_path / "x") == []


KILLED = """
import os, sys, time
from occplug.utils.files import write_atomically
def write(temporary):
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
write_atomically(sys.argv[1], write)
"""


def writer(path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = [sys.executable, "-c", KILLED, str(path)]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout.readline() == "writing\n"
    return process


def test_what_killed_writers_left_is_cleared_and_what_living_ones_write_is_not(tmp_path):
    (tmp_path / ".hidden.part").touch()  # not of this form
    dead, alive = writer(tmp_path / "a.json"), writer(tmp_path / "b.json")
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert len(list(tmp_path.glob(".*.*.part"))) == 2
        assert clear_leftovers(tmp_path) == [tmp_path / f".a.json.{dead.pid}.part"]
        assert sorted(os.listdir(tmp_path)) == [f".b.json.{alive.pid}.part", ".hidden.part"]
    finally:
        alive.kill()
        alive.wait()
    write_atomically(tmp_path / "c.json", text("new"))  # the first write of a process clears its folder
    assert sorted(os.listdir(tmp_path)) == [".hidden.part", "c.json"]


# ---------------------------------------------------------------------- children and locks

PARENT = """
import multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from processes import end_with_parent
def pid():
    time.sleep(0.2)
    return os.getpid()
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    pool = ProcessPoolExecutor(2, context, initializer=end_with_parent)
    print(*{each.result() for each in [pool.submit(pid) for _ in range(6)]}, flush=True)
    pool.submit(time.sleep, 100)
    time.sleep(100)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize(
    "method, killer",
    [("fork", signal.SIGKILL), ("fork", signal.SIGTERM), ("spawn", signal.SIGKILL), ("forkserver", signal.SIGKILL)],
)
def test_children_end_with_their_parent(tmp_path, method, killer):
    (tmp_path / "parent.py").write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "occplug" / "utils")}  # torch is slow to start
    run = [sys.executable, str(tmp_path / "parent.py"), method]
    parent = subprocess.Popen(run, stdout=subprocess.PIPE, text=True, env=environment)
    children = [int(word) for word in parent.stdout.readline().split()]
    assert len(children) == 2 and all(map(is_running, children))
    parent.send_signal(killer)
    parent.wait()
    deadline = time.monotonic() + 10
    while any(map(is_running, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, children))


def test_every_process_of_ours_ends_with_its_parent():
    """Whoever starts processes names the function that ties them to their parent."""
    for file in [f for room in ("occplug", "pretraining") for f in (ROOT / room).rglob("*.py")]:
        source = file.read_text()
        if re.search(r"ProcessPoolExecutor\(|\.Process\(|DataLoader\(", source):
            assert re.search("end_with_parent|start_worker|worker_init_fn=old", source), file


def test_a_wait_says_for_whom_and_a_refusal_too(tmp_path, caplog):
    lock, inside, go = tmp_path / "x" / ".lock", threading.Event(), threading.Event()

    def holder():
        with held(lock, "the rendering"):
            inside.set()
            go.wait(10)

    thread = threading.Thread(target=holder)
    thread.start()
    inside.wait(10)
    me = rf"process {os.getpid()} on \S+, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(me, holder_of(lock))
    with pytest.raises(Timeout), held(lock, "the rendering"):
        pass
    logging.getLogger("occplug").propagate = True
    threading.Timer(0.2, go.set).start()
    with caplog.at_level(logging.WARNING, "occplug"), held(lock, "the rendering", wait=True):
        assert re.search(f"waiting for the rendering, by {me} .lock {re.escape(str(lock))}.", caplog.text)
    thread.join()
    assert holder_of(lock) == "a process that does not say which it is"
    assert not (tmp_path / "x" / ".lock.holder").exists()


def replaced(path, text):
    write_atomically(path, lambda temporary: temporary.write_text(text))


@pytest.mark.parametrize("fails", [False, True])
def test_a_file_replaced_while_it_is_read_is_read_again(fails, tmp_path):
    path, read = tmp_path / "a.txt", []
    path.write_text("old head, old body")

    def halves(path):
        """Opens the file twice; before the first reading's second time it is replaced."""
        head = path.read_text().split(", ")[0]
        if not read:
            replaced(path, "new head, new body")
        read.append(f"{head}, {path.read_text().split(', ')[1]}")
        if fails and len(read) == 1:
            raise ValueError("the checksum does not hold")
        return read[-1]

    assert files.read_whole(path, halves) == "new head, new body"
    assert read == ["old head, new body", "new head, new body"]


def test_a_damaged_file_that_stays_is_read_once_and_one_that_never_stays_is_an_error(tmp_path):
    path, read = tmp_path / "a.txt", []
    path.write_text("0")

    def damaged(path):
        read.append(path)
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        files.read_whole(path, damaged)
    assert read == [path]
    with pytest.raises(OSError, match="replaced faster than it can be read"):
        files.read_whole(path, lambda path: replaced(path, path.read_text() + "0"))
    assert len(path.read_text()) == 1 + files.READINGS
