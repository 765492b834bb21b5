"""What setup.py, the changelog and the citation file say agrees, and with the zoo's index. `.ci/wheel.py` builds."""

import ast
import re
import zlib
from pathlib import Path

import yaml

import occplug
from occplug.zoo import read_index

ROOT = Path(__file__).parents[1]
SETUP = (ROOT / "setup.py").read_text()


def literal(name):
    """The value of a list that setup.py writes out."""
    for node in ast.parse(SETUP).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise AssertionError(name)


def keyword(name):
    """The value of an argument of setup()."""
    call = next(n for n in ast.walk(ast.parse(SETUP)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "setup")
    return ast.literal_eval(next(k.value for k in call.keywords if k.arg == name))


def test_one_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    released = re.findall(r"^## \[(\d\S*)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)[0]
    assert (occplug.__version__, str(citation["date-released"])) == released
    assert citation["version"] == occplug.__version__
    assert occplug.__version__ not in SETUP


def test_weights_of_the_wheel_are_the_index_s_and_small():
    files = {e.checkpoint.file for e in read_index().entries.values() if e.checkpoint}
    assert all(f"checkpoints/{name}.safetensors" in files for name in literal("WEIGHTS"))
    package = ROOT / "occplug"
    inside = [package / f"zoo/checkpoints/{name}.safetensors" for name in literal("WEIGHTS")]
    inside += [path for path in (package / "assets").rglob("*") if path.is_file()]
    # as a wheel packs them; it may have 15 MB, of which code takes one, and .ci/wheel.py weighs it
    assert sum(len(zlib.compress(path.read_bytes())) for path in inside) < 14_000_000


def test_every_requirement_has_a_minimum_that_ci_can_install():
    requirements = keyword("install_requires")
    assert [r for r in requirements if not re.fullmatch(r"[\w.-]+>=[\d.]+(; python_version < '3.14')?", r)] == []
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    matrix = workflow["jobs"]["versions"]["strategy"]["matrix"]
    minors = range(10, 14)
    assert matrix["python"] == [f"3.{minor}" for minor in minors]
    assert keyword("python_requires") == ">=3.10"
    oldest = [row["python"] for row in matrix["include"] if row["libraries"] == "oldest"]
    assert "3.10" in oldest


def test_forms_that_report_ask_for_the_doctor():
    for name in ("bug", "figures"):
        form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text())
        (doctor,) = [part for part in form["body"] if part.get("id") == "doctor"]
        assert "occplug doctor" in doctor["attributes"]["label"] and doctor["validations"]["required"]
