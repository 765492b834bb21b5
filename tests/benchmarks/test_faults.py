"""The fault injection counts what does not hold; the quick version runs as a whole, marked slow."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults import command, inputs
from benchmarks.faults.tally import Results, Tally, table
from occplug.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("trial", [inputs.configs, inputs.command_lines, inputs.checkpoints, inputs.pictures])
def test_damaged_inputs_hold(trial):
    tally = trial(12, 1000)
    assert tally.tried == 12 and tally.failed == []


def test_a_fault_is_counted_with_its_seed(monkeypatch):
    def broken(path):
        raise KeyError("tile")

    monkeypatch.setattr(inputs, "open_picture", broken)
    tally = inputs.pictures(3, 7)
    assert tally.row().endswith("| 0 / 3 |")
    assert tally.failed[0] == "damaged pictures, seed 7: KeyError: 'tile'"


def test_other_content_is_no_success():
    assert inputs._attempt(lambda: 1, lambda found: found == 2) == "accepted, with other content"
    assert inputs._attempt(lambda: 1, lambda found: found == 1) is None


def test_the_table():
    tally = Tally("kill", "it goes on")
    tally.add(3, None)
    tally.add(4, "it hung")
    rows = table([tally]).splitlines()
    assert rows[2] == "| kill | it goes on | 1 / 2 |" and rows[-1] == "* kill, seed 4: it hung"
    assert table([Tally("kill", "x")]).endswith("Nothing failed.")


def test_trials_are_kept_and_not_tried_again(tmp_path, monkeypatch):
    page, file, seeds = tmp_path / "a.md", tmp_path / "a.jsonl", []
    page.write_text("before\n<!-- faults -->\n<!-- end -->\nafter\n")

    def damage(count, seed):
        seeds.append((count, seed))
        tally = Tally("damaged pictures", "it is a picture")
        for number in range(seed, seed + count):
            tally.add(number, "it hung" if number == 7 else None)
        return tally

    monkeypatch.setattr(command, "_INPUTS", {damage: 40})
    monkeypatch.setattr(inputs, "NAMES", {damage: "damaged pictures"})
    words = ["--parts", "inputs", "--results", str(file), "--page", str(page), "--quick"]
    for first in (6, 6, 8):
        with pytest.raises(SystemExit):  # one has failed
            command.main([*words, "--seed", str(first)])
    assert seeds == [(2, 6), (2, 8)]
    text = page.read_text()
    assert "| damaged pictures | it is a picture | 3 / 4 |" in text and "* damaged pictures, seed 7: it hung" in text
    assert text.startswith("before\n") and text.endswith("after\n") and "one thread; python" in text
    results = Results(file, "m", "2026-01-02", "c")
    assert [results.has("damaged pictures", seed) for seed in (5, 6, 9, 10)] == [False, True, True, False]
    file.write_text(file.read_text() + "{}\n")
    with pytest.raises(DataError, match=r"a.jsonl, line 3 is damaged .*; delete it"):
        Results(file, "m", "2026-01-02", "c")


@pytest.mark.slow
def test_the_quick_version_holds():
    command = [sys.executable, str(ROOT / "tools" / "faults.py"), "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3500)
    assert done.returncode == 0, done.stdout + done.stderr
