"""The code of docs/own_crops.md runs, and so do its commands."""

import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import occplug
from occplug.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "own_crops.md"


def test_the_page_of_own_crops_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 5
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(names["built"]) == 8 and names["hits"].ids.shape == (2, 3)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """As a reader has it: crops, a table, SynthOcc tiny in data/, and a short run that held identities out."""
    monkeypatch.chdir(tmp_path)
    rng, rows = np.random.default_rng(0), ["path,pid,camera"]
    for folder, count in (("crops", 6), ("new", 2)):
        Path(folder).mkdir()
        for number in range(count):
            picture = Image.fromarray(rng.integers(0, 256, (8, 4, 3), dtype=np.uint8))
            picture.resize((64, 128)).save(f"{folder}/{number}.png")
    Image.open("crops/3.png").save("who.jpg")
    rows += [f"crops/{number}.png,p{number % 3},{number}" for number in range(6)]
    Path("people.csv").write_text("\n".join(rows))
    options = ["synthocc.size", "tiny", "data.workers", "0", "train.batch_size", "16", "method.stage1.epochs", "1"]
    options += ["method.stage2.epochs", "1", "ensemble.held_out", "0.5", "data.save_dir", "log/run"]
    assert main(["train", "--config-file", "clip_reid_synthocc", "--root", "data", *options]) == 0


def shown_commands():
    """The `occplug` lines of the page, in order."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    words = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line[1:] for line in words if line and line[0] == "occplug"]


def test_the_commands_of_the_page_run(place, capsys):
    """One after the other, in one folder; without faiss on this machine the exact engine stands in."""
    pytest.importorskip("onnxruntime")
    commands = shown_commands()
    assert {words[0] for words in commands} >= {"embed", "search", "gallery", "calibrate", "cluster", "export"}
    for words in commands:
        if importlib.util.find_spec("faiss") is None:
            words = ["exact" if word == "faiss" else word for word in words]
        assert main(words) == 0, f"{' '.join(words)}: {capsys.readouterr().err}"
    assert Path("hits.png").stat().st_size > 1000 and Path("groups.png").stat().st_size > 1000
    assert len(occplug.Gallery.load("people")) == 8 and Path("model.onnx").is_file()
    same = occplug.load("log/run").same(["crops/0.png", "crops/0.png"], ["crops/0.png", "crops/1.png"])
    assert same.probability[0] > same.probability[1]
