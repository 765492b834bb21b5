"""The fault injection counts what does not hold; the quick version runs as a whole, marked slow."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults import inputs
from benchmarks.faults.tally import Tally, table

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


@pytest.mark.slow
def test_the_quick_version_holds():
    command = [sys.executable, str(ROOT / "tools" / "faults.py"), "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
