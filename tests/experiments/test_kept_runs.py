"""`docs/runs.jsonl`: the runs behind the tables of the documents."""

import contextlib
import re
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from occplug.cli import main
from occplug.config import load_config
from occplug.evaluation import read_per_query
from occplug.experiments import comparing, kept, keptfile, trainings
from occplug.experiments.ablations import load_tables
from occplug.experiments.documents import marked_tables
from occplug.zoo.exporting import read_metrics
from occplug.zoo.index import read_index

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs/runs.jsonl"
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
COMMANDS = {
    (document, command)
    for document in ("docs/results.md", "docs/ablations.md")
    for command in re.findall(
        r"`python (tools/\w+\.py [^`]*--keep docs/runs\.jsonl[^`]*)`", (ROOT / document).read_text()
    )
}


@pytest.fixture(scope="module")
def folder():
    with keptfile.as_folder(FILE) as folder:
        yield folder


def test_runs_are_whole_and_of_no_machine(folder):
    runs = sorted(path.parent for path in folder.rglob("metrics.json"))
    assert len(runs) == len(FILE.read_text().splitlines()) > 0
    for run in runs:
        cfg = load_config(run / "config.yaml")
        assert cfg.data.root == cfg.data.save_dir == "" and cfg.train.seed == int(run.name.removeprefix("seed"))
        assert not any(line.strip().endswith(".pth") and ": /" in line for line in (run / "config.yaml").open())
        for target, figures in read_metrics(run)["targets"].items():
            queries = read_per_query(run / "per_query" / f"{target}.npz")
            assert figures["mAP"] == pytest.approx(queries.ap.mean()) and len(queries.ap) == figures["num_query"]
            assert figures["rank1"] == pytest.approx(queries.rank1.mean())


@pytest.mark.parametrize(("document", "command"), sorted(COMMANDS))
def test_tables_are_those_of_the_runs(document, command, folder, tmp_path, monkeypatch):
    def nothing_is_trained(training):
        raise AssertionError(f"{training.row}, seed {training.seed} is not kept")

    monkeypatch.setattr(trainings, "_run", nothing_is_trained)
    monkeypatch.setattr(trainings, "_given", lambda cfg: {})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for name in ("docs/results.md", "docs/ablations.md"):
        shutil.copy(ROOT / name, name)
    for name in ("configs", "data"):
        Path(name).symlink_to(ROOT / name)
    # unpacked once for all commands
    monkeypatch.setattr(kept, "as_folder", lambda place: contextlib.nullcontext(folder))
    # the histogram, and what the page of a comparison says of occlusion, would need the rendered images
    monkeypatch.setattr(comparing, "_by_occlusion", lambda rows, cfg: [])
    tool, *words = shlex.split(command.replace(" --histogram", ""))
    assert main([Path(tool).stem, *words]) == 0
    assert _without_histogram(Path(document).read_text()) == _without_histogram((ROOT / document).read_text())
    figure = words[words.index("--figure") + 1] if "--figure" in words else None
    if figure is not None:  # bytes depend on matplotlib's version, what it shows does not
        assert _shown_by(Path(figure)) == _shown_by(ROOT / figure) != []


@pytest.mark.parametrize(
    "document", ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
)
def test_every_table_of_trainings_is_made_again(document):
    """Each marked table is compared by the test above, or holds the command alone that will make it, and no figure."""
    text = (ROOT / document).read_text()
    marks = re.findall(r"^<!-- ((?:compare|ablate) [^>]+) -->\n(.*?)^<!-- end -->", text, re.S | re.M)
    assert len(marks) == len(re.findall(r"^<!-- (?:compare|ablate) ", text, re.M))
    for mark, body in marks:
        made = [command for page, command in COMMANDS if page == document and f"`python {command}`" in body]
        assert len(made) == 1 or body.startswith("```bash\npython tools/"), f"{document}: {mark}"
        assert made or "|" not in body, f"{document}: {mark}"


def test_figures_of_the_readme_are_those_of_the_runs(folder):
    """README's table shows the zoo's figures (a test of the zoo compares them); these are the kept runs' figures."""
    index = read_index()
    measured = [index.entries[row["synthocc"]] for row in index.overview if index.entries.get(row["synthocc"])]
    assert sum(entry.ours is not None for entry in measured) > 5
    for entry in measured:
        for run in entry.ours.runs if entry.ours else ():
            (there,) = folder.glob(f"{Path(entry.config).stem}/{Path(entry.config).stem}-*/seed{run.seed}")
            figures = read_metrics(there)["targets"][entry.data]
            assert {key: round(figures[key], 6) for key in run.figures} == run.figures, entry.name


def test_every_table_of_synthocc_has_a_place():
    """Each table that has rows on SynthOcc stands in docs/ablations.md, under the config of its method there."""
    there = {tuple(table.mark.split()[1:]) for table in marked_tables(ROOT / "docs/ablations.md")}
    assert len(there) == len(marked_tables(ROOT / "docs/ablations.md"))
    of_papers = {"backbone", "cameras", "prompts"}  # of towers and data sets that SynthOcc is not for; README's rows
    expected = {
        (f"{file.stem}_synthocc", name)
        for file in (ROOT / "configs/ablations").glob("*.yaml")
        for name in load_tables(file)
        if name not in of_papers
    }
    assert there == expected
    for table in marked_tables(ROOT / "docs/ablations.md"):
        config, name = table.mark.split()[1:]
        figure = f"docs/images/ablations/{config.removesuffix('_synthocc')}_{name}.svg"
        assert table.words[table.words.index("--figure") + 1] == figure
        assert table.words[table.words.index("--readme") + 1] == "docs/ablations.md"


def _shown_by(figure: Path) -> list[str]:
    """What the figure says of its rows, but the histogram's."""
    text = ElementTree.parse(figure).findtext(".//{http://purl.org/dc/elements/1.1/}description") or ""
    return [line for line in text.split("\n") if not line.startswith("colour histogram")]


def _without_histogram(text: str) -> list[str]:
    """Lines without that row, the flag that makes it, its place among the differences, and the width of columns."""
    text = re.sub(
        r"colour histogram \([^)]*\) \(mAP, Rank-1\); |of the \d+ differences", "", text.replace(" --histogram", "")
    )
    lines = (re.sub(r"(-| )+", r"\1", line) for line in text.split("\n"))
    return [line for line in lines if not line.startswith("| colour histogram")]
