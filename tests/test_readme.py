"""What the documents show works: python blocks run, commands name files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_blocks_run(block, monkeypatch):
    import occplug

    monkeypatch.chdir(ROOT)
    try:
        exec(compile(block, "README.md", "exec"), {})
    finally:
        occplug.unregister()


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
