"""Rules of the house that a parser can check: who imports whom, what never appears, sizes."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "occplug").rglob("*.py"))

# A package may import from its own level or below, never from above.
LEVELS = {
    "errors": 0, "_moved": 0, "utils": 1, "registry": 1, "embedding": 1, "torchreid_host": 1, "distributed": 1,
    "config": 2, "method": 3,
    "evaluation": 5, "losses": 5, "heads": 5, "prompts": 5, "backbones": 5, "occluders": 5, "samplers": 6,
    "transforms": 6, "datasets": 7, "stages": 7, "masks": 7, "data": 8, "methods": 9, "engine": 9,
    "importers": 10, "zoo": 11, "doctor": 11, "runs": 12, "plugin": 12, "serving": 12, "experiments": 13, "reports": 13,
    "cli": 14, "__main__": 15,
}  # fmt: skip


def package_of(path: Path) -> str:
    relative = path.relative_to(ROOT / "occplug")
    return relative.parts[0].removesuffix(".py")


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """Modules of occplug that the file imports, and whether that is deferred: inside a function, not at its head.

    What stands under `if TYPE_CHECKING` is for type checkers and never imported.
    """
    tree = ast.parse(path.read_text())
    typing = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    skipped = {id(node) for block in typing for node in ast.walk(block)}
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"occplug.{alias.name}" for alias in node.names] if node.module == "occplug" else [node.module]
        if id(node) not in skipped:
            found += [(name, node not in tree.body) for name in names if name.startswith("occplug.")]
    return found


def rooms() -> set[str]:
    return {package_of(path) for path in FILES}


# Modules at the top of the package: each is a word of the public interface, or below everything.
LOOSE = {"__init__", "__main__", "_moved", "embedding", "errors", "method", "registry", "torchreid_host"}

# Imports inside functions, for speed of import alone: torchreid and its host take seconds, the others are read by a few
# calls only. None of them hides a circle: `test_rooms_import_each_other_in_no_circle` counts them too.
DEFERRED = {
    "__init__.py": {"runs", "plugin", "serving"},  # `import occplug` brings neither torchreid nor a model
    "serving/extractor.py": {"serving"},  # `hub` is loaded when a model is passed on
    "config/load.py": {"torchreid_host"},
    "transforms/stock.py": {"torchreid_host"},
    "plugin/register.py": {"config", "datasets", "evaluation", "transforms", "utils"},
    "backbones/download.py": {"utils"},
    "masks/sources.py": {"datasets"},
    "zoo/addresses.py": {"zoo"},
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    own = package_of(path)
    if own == "__init__":
        return
    for module, _ in imports_of(path):
        other = module.split(".")[1]
        if other in LEVELS:
            assert LEVELS[other] <= LEVELS[own], f"{path.name} ({own}) imports {module}"


def test_rooms_import_each_other_in_no_circle():
    """At their heads or inside functions."""
    graph: dict[str, set[str]] = {room: set() for room in rooms() - {"__init__"}}
    for path in FILES:
        if package_of(path) != "__init__":
            others = {module.split(".")[1] for module, _ in imports_of(path)} & rooms()
            graph[package_of(path)] |= others - {package_of(path)}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert set(order) == set(graph)


def test_imports_are_deferred_for_speed_alone():
    """A command may defer whatever it likes; elsewhere each deferred import is on the list, which has no other."""
    found: dict[str, set[str]] = {}
    for path in FILES:
        if package_of(path) != "cli":
            deferred = {module.split(".")[1] for module, is_deferred in imports_of(path) if is_deferred}
            if deferred:
                found[str(path.relative_to(ROOT / "occplug"))] = deferred
    assert found == DEFERRED


def test_no_loose_module_has_a_room():
    loose = {path.stem for path in (ROOT / "occplug").glob("*.py")}
    assert loose == LOOSE
    folders = {path.name for path in (ROOT / "occplug").iterdir() if path.is_dir()}
    assert not loose & folders


def test_the_map_names_every_room():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`(\w+)(?:/|\.py)`", text))
    assert rooms() - {"__init__", "__main__", "_moved"} <= named, "ARCHITECTURE.md leaves out rooms"
    assert len(text.splitlines()) <= 33


def test_every_folder_of_modules_is_a_package():
    """Else it is missing from the wheel; in a checkout nobody notices."""
    folders = {path.parent for path in FILES}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_only_the_host_imports_torchreid():
    users = [p.name for p in FILES if re.search(r"^\s*(import|from) torchreid", p.read_text(), re.M)]
    assert users == ["torchreid_host.py"]


def test_methods_import_no_method_but_shared_bases():
    """A base that methods share stands in a file whose name starts with an underscore."""
    for path in (ROOT / "occplug" / "methods").glob("*.py"):
        assert not re.search(r"(from|import) occplug\.methods(?!\._)", path.read_text()), path.name


@pytest.mark.parametrize(
    "pattern", [r"\.cuda\(\)", r"except:", r"\beval\(\"", r"^\s*global ", r"# ?TODO", r"/(home|root|work)/"]
)
def test_what_never_appears(pattern):
    hits = [p.name for p in FILES if re.search(pattern, p.read_text(), re.M)]
    assert hits == []


def test_printing_is_left_to_commands():
    hits = [p.name for p in FILES if package_of(p) != "cli" and re.search(r"^\s*print\(", p.read_text(), re.M)]
    assert hits == []


# Strings that name a file of the checkout on purpose: what is written into its own documents, and what makes an asset.
OF_THE_CHECKOUT = {
    "backbones/tiny.py", "zoo/index.py", "zoo/table.py", "runs/publishing.py", "cli/compare.py", "cli/ablate.py",
    "experiments/documents.py",
}  # fmt: skip


def test_messages_name_commands_that_an_installed_package_has():
    """`occplug zoo list`, not tools/zoo.py, which is in a checkout alone."""
    found: dict[str, list[str]] = {}
    for path in FILES:
        tree = ast.parse(path.read_text())
        documented = [n for n in ast.walk(tree) if isinstance(n, (ast.Module, ast.ClassDef, ast.FunctionDef))]
        docstrings = {id(n.body[0].value) for n in documented if n.body and isinstance(n.body[0], ast.Expr)}
        strings = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docstrings]
        named = [n.value for n in strings if isinstance(n.value, str) and re.search(r"\btools/.+\.py", n.value)]
        if named:
            found[str(path.relative_to(ROOT / "occplug"))] = named
    assert found.keys() == OF_THE_CHECKOUT, found


def test_files_and_functions_stay_readable():
    long = [f"{p.name}: {n} lines" for p in FILES if (n := p.read_text().count("\n")) > 500]
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                whole = node.end_lineno - node.lineno + 1
                first = node.body[0]
                code = whole - (first.end_lineno - first.lineno + 1) * (ast.get_docstring(node) is not None)
                if whole > 70 or code > 45:
                    long.append(f"{path.name}: {node.name} {whole} lines, {code} without its docstring")
    assert long == []


def test_importing_occplug_leaves_torchreid_alone():
    import subprocess
    import sys

    code = "import sys, occplug; sys.exit('torchreid' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
