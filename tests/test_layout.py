"""Rules of the house that a parser can check: who imports whom, what never appears, sizes."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "occplug").rglob("*.py"))

# A package may import from its own level or below, never from above.
LEVELS = {
    "errors": 0, "_moved": 0, "utils": 1, "registry": 1, "embedding": 1, "torchreid_host": 1, "config": 2, "method": 3,
    "evaluation": 5, "losses": 5, "heads": 5, "prompts": 5, "backbones": 5, "occluders": 5, "samplers": 6,
    "transforms": 6, "datasets": 7, "stages": 7, "masks": 7, "data": 8, "methods": 9, "engine": 9, "plugin": 10,
    "importers": 10, "zoo": 11, "runs": 12, "serving": 12, "experiments": 13, "cli": 14, "__main__": 15,
}  # fmt: skip


def package_of(path: Path) -> str:
    relative = path.relative_to(ROOT / "occplug")
    return relative.parts[0].removesuffix(".py")


def module_level_imports(tree: ast.Module) -> list[str]:
    """Modules imported when the file is imported; imports inside functions are deferred on purpose."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    own = package_of(path)
    if own == "__init__":
        return
    for module in module_level_imports(ast.parse(path.read_text())):
        if module.startswith("occplug."):
            other = module.split(".")[1]
            assert LEVELS[other] <= LEVELS[own], f"{path.name} ({own}) imports {module}"


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


def test_files_and_functions_stay_readable():
    long = [f"{p.name}: {n} lines" for p in FILES if (n := p.read_text().count("\n")) > 500]
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 70:
                long.append(f"{path.name}: {node.name} {node.end_lineno - node.lineno + 1} lines")
    assert long == []


def test_importing_occplug_leaves_torchreid_alone():
    import subprocess
    import sys

    code = "import sys, occplug; sys.exit('torchreid' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
