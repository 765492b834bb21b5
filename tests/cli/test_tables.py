"""`occplug tables` and `--no-training`: tables of a document from kept runs, by their own commands."""

from pathlib import Path

import pytest

from occplug.cli import main
from occplug.errors import ConfigError
from occplug.experiments import trainings
from occplug.experiments.documents import marked_tables
from tests.cli.fakes import fake_run

CONFIG = str(Path(__file__).parents[2] / "configs/clip_reid_synthocc.yaml")
MARK = "<!-- ablate clip_reid_synthocc template -->"
COMMAND = f"python tools/ablate.py --config-file {CONFIG} --table template --seeds 1 --keep kept.jsonl --readme page.md"


@pytest.fixture(autouse=True)
def _place(monkeypatch, tmp_path):
    monkeypatch.setattr(trainings, "_run", fake_run)
    monkeypatch.chdir(tmp_path)
    Path("page.md").write_text(f"before\n{MARK}\n```bash\n{COMMAND}\n```\n<!-- end -->\nafter\n")


def train(*rows):
    words = ["--config-file", CONFIG, "--table", "template", "--seeds", "1", "--keep", "kept.jsonl", "--rows", *rows]
    assert main(["ablate", *words]) == 0


def nothing(training):
    raise AssertionError(f"{training.row} is trained")


def test_a_table_is_left_until_its_runs_are_there_and_then_made_by_its_command(monkeypatch, capsys):
    before = Path("page.md").read_text()
    train("m4", "m1")
    monkeypatch.setattr(trainings, "_run", nothing)
    capsys.readouterr()
    assert main(["tables", "page.md"]) == 0
    said = capsys.readouterr().out
    assert Path("page.md").read_text() == before and "0 of 1 tables made" in said
    assert "left as it is: 3 of 5 runs are neither kept" in said and "m2, seed 1; m8, seed 1; bare, seed 1" in said
    monkeypatch.setattr(trainings, "_run", fake_run)
    train("m2", "m8", "bare")
    monkeypatch.setattr(trainings, "_run", nothing)
    assert main(["tables", "page.md"]) == 0
    made = Path("page.md").read_text()
    assert made.startswith("before") and made.endswith("after\n") and "```" not in made
    assert f"`{COMMAND}`" in made and sum(line.startswith("| m") for line in made.splitlines()) == 5  # with the head
    assert main(["tables", "page.md"]) == 0 and Path("page.md").read_text() == made


def test_rows_without_runs_are_left_out_if_asked(monkeypatch, capsys):
    train("m1", "m2")
    monkeypatch.setattr(trainings, "_run", nothing)
    assert main(["tables", "page.md", "--partial"]) == 0
    assert "left as it is" in capsys.readouterr().out and "```bash" in Path("page.md").read_text()  # no baseline
    monkeypatch.setattr(trainings, "_run", fake_run)
    train("m4")
    monkeypatch.setattr(trainings, "_run", nothing)
    assert main(["tables", "page.md", "--partial"]) == 0
    assert "made without the rows that lack runs (2 of 5" in capsys.readouterr().out
    text = Path("page.md").read_text()
    assert f"`{COMMAND} --rows m4 m1 m2`" in text and "| m8" not in text
    assert [table.words[-3:] for table in marked_tables(Path("page.md"))] == [["m4", "m1", "m2"]]


def test_missing_runs_are_an_error_of_each_command(monkeypatch, capsys):
    monkeypatch.setattr(trainings, "_run", nothing)
    commands = (
        ["ablate", "--config-file", CONFIG, "--table", "template"],
        ["compare", "--configs", CONFIG],
        ["sweep", "clip_reid_synthocc", "method.stage2.margin=0.1,0.3"],
    )
    for command in commands:
        assert main([*command, "--no-training"]) == 2
        assert "runs are neither kept nor in their folders" in capsys.readouterr().err


def test_mistakes_in_documents_are_named(tmp_path):
    page = tmp_path / "other.md"
    with pytest.raises(ConfigError, match="other.md cannot be read as a page"):
        marked_tables(page)
    page.write_text("nothing\n")
    with pytest.raises(ConfigError, match="other.md has no table between marks"):
        marked_tables(page)
    page.write_text("<!-- compare a -->\n| a |\n<!-- end -->\n")
    with pytest.raises(ConfigError, match="0 commands stand between the marks of 'compare a'; write one"):
        marked_tables(page)
