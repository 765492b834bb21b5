"""What the documents show works: python blocks run, commands name files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = ["README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]
RUN = ("README.md", "docs/own_data.md")  # pages whose python blocks run in a folder as a reader has it
# A block that cannot run here says why in a comment on the line before it: <!-- not run: needs real data -->
BLOCK = re.compile(r"(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?```(?P<language>python|bash)\n(?P<code>.*?)```", re.S)
BLOCKS = [(page, found) for page in PAGES for found in BLOCK.finditer((ROOT / page).read_text())]


def blocks(language):
    chosen = [(page, found) for page, found in BLOCKS if found["language"] == language]
    return [pytest.param(page, found, id=f"{page}-{number}") for number, (page, found) in enumerate(chosen)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as a reader has it: the checkout's configs, and SynthOcc tiny in data/."""
    from occplug.datasets.synthocc import build

    folder = tmp_path_factory.mktemp("reader")
    (folder / "configs").symlink_to(ROOT / "configs")
    build(folder / "data", "tiny", workers=1, progress=False)
    return folder


@pytest.mark.parametrize(("page", "found"), blocks("python"))
def test_python_blocks_run(page, found, place, monkeypatch):
    """Those of pages that build a file (`# file: NAME`) are at least valid; the pages' own tests run them."""
    import occplug

    code = compile(found["code"], page, "exec")
    if page not in RUN or found["reason"]:
        return
    monkeypatch.chdir(place)
    try:
        exec(code, {})
    finally:
        occplug.unregister()


@pytest.mark.parametrize(("page", "found"), blocks("bash"))
def test_commands_of_bash_blocks_exist(page, found):
    """Every `occplug NAME` and `tools/NAME.py` is a command of ours."""
    from occplug.cli import COMMANDS

    text = found["code"].replace("\\\n", " ")
    named = re.findall(r"^\s*(?:\w+=\S+ )*occplug ([a-z][\w-]*)", text, re.M)
    unknown = [name for name in named if name not in COMMANDS]
    assert unknown == []


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CONTRIBUTING.md",
        "ARCHITECTURE.md",
        "model_zoo.md",
        *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
    ],
)
def test_named_files_exist(document):
    text = (ROOT / document).read_text()
    named = re.findall(r"(?<![\w/])((?:tools|configs|occplug|tests)/[\w./]+\.(?:py|yaml|md))", text)
    links = re.findall(r"\]\(([\w./]+\.md)", text)
    written = re.findall(r"^# file: (\S+)$", text, re.M)  # by the page's own code blocks
    missing = [name for name in named if not (ROOT / name).exists() and Path(name).name not in written]
    missing += [link for link in links if not (ROOT / document).parent.joinpath(link).exists()]
    assert missing == []


def test_makefile_targets_the_interfaces_name():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("install", "demo", "test", "lint", "bench"):
        assert re.search(rf"^{target}:", makefile, re.M), target
