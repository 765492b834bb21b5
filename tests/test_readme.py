"""What the documents show works: python blocks run, commands exist and take the flags they are shown with."""

import argparse
import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))
PAGES = ["README.md", "CONTRIBUTING.md", *DOCS]
# their python blocks build on each other, or on files that they show: a test of its own runs each page
TESTED_ELSEWHERE = ("docs/own_method.md", "docs/own_backbone.md", "docs/own_crops.md")
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
    """On SynthOcc tiny also where a page takes the data set's default size."""
    import occplug
    from occplug.datasets.synthocc_dataset import SynthOcc

    code = compile(found["code"], page, "exec")
    if page in TESTED_ELSEWHERE or found["reason"]:
        return
    monkeypatch.setattr(SynthOcc.__init__, "__defaults__", ("", "tiny", 1))
    monkeypatch.chdir(place)
    try:
        exec(code, {})
    finally:
        occplug.unregister()


class Parsed(BaseException):
    """Raised when a command has parsed its flags, in place of its work; `rest` is what its parser does not know."""

    def __init__(self, rest):
        super().__init__()
        self.rest = rest


@pytest.fixture
def only_parse(monkeypatch):
    """Every parser raises Parsed once it is done; a sub-command's parser is part of its parent's work."""
    parse, depth = argparse.ArgumentParser.parse_known_args, []

    def parse_known_args(parser, *args, **kwargs):
        depth.append(parser)
        try:
            found, rest = parse(parser, *args, **kwargs)
        finally:
            depth.pop()
        if not depth:
            raise Parsed(rest)
        return found, rest

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)


def shown_commands(code):
    """(name, arguments) of each `occplug NAME` and `tools/NAME.py` of a bash block, whatever starts it."""
    text = re.sub(r"\$\([^()]*\)", "", code.replace("\\\n", " "))
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.wordchars += ":,$@{}[]"
        words = [*lexer, ";"]
        while words:
            end = next(n for n, word in enumerate(words) if set(word) <= set(";|&"))
            command, words = words[:end], words[end + 1 :]
            for place, word in enumerate(command):
                tool = re.fullmatch(r"tools/([\w-]+)\.py", word)
                if word == "occplug" and command[place - 1 : place] != ["install"]:
                    yield command[place + 1], command[place + 2 :]
                elif tool:
                    yield tool[1], command[place + 1 :]
                else:
                    continue
                break


def command_of(name):
    """The function behind a command's name, or behind a tool's that is no command."""
    from occplug.cli import COMMANDS

    known = name.replace("_", "-")
    if known in COMMANDS:
        return importlib.import_module(f"occplug.cli.{COMMANDS[known][0]}").main
    tool = ROOT / "tools" / f"{name}.py"
    elsewhere = re.search(r"^from ([\w.]+) import main$", tool.read_text(), re.M)
    return importlib.import_module(elsewhere[1]).main if elsewhere else runpy.run_path(str(tool))["main"]


@pytest.mark.parametrize(("page", "found"), blocks("bash"))
def test_commands_of_bash_blocks_take_their_flags(page, found, only_parse):
    if found["reason"]:
        return
    for name, arguments in shown_commands(found["code"]):
        with pytest.raises(Parsed) as parsed:
            command_of(name)(arguments)
        unknown = [word for word in parsed.value.rest if word.startswith("-")]
        assert unknown == [], f"{name} has no {unknown}"


@pytest.mark.parametrize(("page", "found"), blocks("bash"))
def test_makefile_has_the_targets_of_bash_blocks(page, found):
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", found["code"], re.M):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_a_wrong_flag_is_noticed(only_parse):
    """The check itself: of a whole command, of a sub-command, behind torchrun and in the second of two commands."""
    code = "occplug search a.jpg --galery g\ntools/zoo.py add --confg c\ntorchrun tools/train.py --rot d && occplug x\n"
    found = list(shown_commands(code))
    assert found == [("search", ["a.jpg", "--galery", "g"]), ("zoo", ["add", "--confg", "c"])] + [
        ("train", ["--rot", "d"]),
        ("x", []),
    ]
    for name, arguments in found[:3]:
        with pytest.raises((SystemExit, Parsed)) as ended:
            command_of(name)(arguments)
        assert ended.type is SystemExit or ended.value.rest[0].startswith("--")
    with pytest.raises(OSError):
        command_of("x")


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "CONTRIBUTING.md",
        "ARCHITECTURE.md",
        "model_zoo.md",
        *DOCS,
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


def linked_from(start):
    """Pages that links lead to from `start`, over any number of them."""
    reached, waiting = set(), [ROOT / start]
    while waiting:
        page = waiting.pop().resolve()
        if page not in reached and page.is_file():
            reached.add(page)
            waiting += [page.parent / link for link in re.findall(r"\]\(([\w./]+\.md)", page.read_text())]
    return reached


@pytest.mark.parametrize("start", ["README.md", "docs/index.md"])
def test_links_lead_to_every_page(start):
    """Pages of the API are in the site's menu alone."""
    pages = set((ROOT / "docs").glob("*.md"))
    assert sorted(path.name for path in pages - linked_from(start)) == []


def test_the_menu_of_the_site_has_every_page():
    menu = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = re.findall(r"([\w./]+\.md)$", menu, re.M)
    assert sorted(named) == sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))


def test_makefile_targets_the_interfaces_name():
    makefile = (ROOT / "Makefile").read_text()
    for target in ("install", "demo", "test", "lint", "bench"):
        assert re.search(rf"^{target}:", makefile, re.M), target
