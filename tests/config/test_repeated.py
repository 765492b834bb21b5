"""A default is written once: not in configs/ where it holds anyway, and not in a constructor beside its config key."""

import ast
import inspect
import textwrap
from collections import defaultdict
from pathlib import Path

import pytest

import occplug
from occplug.config.defaults import CORE
from occplug.config.files import flatten, read_settings
from occplug.config.load import _default_tree, _model_name, _values
from occplug.registry import BACKBONES, TRANSFORMS, get, model_class, names

FOLDER = Path(__file__).parents[2] / "configs"
# what a file is about, which it says also where that is the default
SUBJECT = ("model.name", "backbone.name", "data.sources", "data.targets")


def needed(file: Path) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Of the config `file`: the lines (file, key) that decide a value, and all lines it reads."""
    settings = list(read_settings(file))
    method = model_class(_model_name(settings, str(file)))
    tree, nullable = _default_tree(method, settings)
    defaults, set_by = dict(flatten(tree)), defaultdict(list)
    for setting in settings:
        for key, (value, where) in _values([setting], tree, nullable).items():
            set_by[key].append((value, where))
    deciding = set()
    for key, history in set_by.items():
        first = len(history) - 1  # of the last run of equal values
        while first and history[first - 1][0] == history[first][0]:
            first -= 1
        value, where = history[first]
        if first or value != defaults[key] or key in (*SUBJECT, *method.follows):
            deciding.add((where, key))
    return deciding, {(where, key) for key, history in set_by.items() for _, where in history}


def repeated(folder: Path) -> list[str]:
    """The lines that no config of `folder` needs."""
    found = [needed(file) for file in sorted(folder.glob("*.yaml"))]
    deciding = set().union(*(of for of, _ in found))
    read = set().union(*(of for _, of in found))
    return [f"{Path(where).relative_to(folder)}: {key}" for where, key in sorted(read - deciding)]


def test_no_line_of_a_config_repeats_what_holds_without_it():
    assert repeated(FOLDER) == []


# ---------------------------------------------------------------------- code

PACKAGE = Path(occplug.__file__).parent
SECTIONS = {name: node for name, node in {**CORE, **CORE["backbone"]}.items() if isinstance(node, dict)}


def literal_defaults(tree: ast.AST):
    """(line, name, value) of each argument and field whose default is written out."""
    for node in ast.walk(tree):
        pairs = []
        if isinstance(node, ast.FunctionDef):
            positional = [*node.args.posonlyargs, *node.args.args]
            pairs = [
                *zip(positional[::-1], node.args.defaults[::-1]),
                *zip(node.args.kwonlyargs, node.args.kw_defaults),
            ]
        elif isinstance(node, ast.ClassDef):
            fields = [
                item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            ]
            pairs = [(item.target, item.value) for item in fields]
        for name, value in pairs:
            if isinstance(value, ast.Constant | ast.List | ast.Tuple):
                yield value.lineno, getattr(name, "arg", getattr(name, "id", "")), ast.literal_eval(value)


def beside_keys(file: Path) -> list[str]:
    """Defaults in `file` that its config section, by the name of the file or of a folder, has with the same value."""
    words = {word for part in file.relative_to(PACKAGE).with_suffix("").parts for word in (part, *part.split("_"))}
    found = []
    for section in sorted(words & SECTIONS.keys()):
        keys = SECTIONS[section]
        for line, name, value in literal_defaults(ast.parse(file.read_text())):
            same = name in keys and (list(value) if isinstance(value, tuple) else value) == keys[name]
            found += [f"{file.relative_to(PACKAGE)}:{line}: {name} is also {section}.{name}"] if same else []
    return found


def test_no_constructor_repeats_the_default_of_its_config_section():
    assert [line for file in sorted(PACKAGE.rglob("*.py")) for line in beside_keys(file)] == []


@pytest.mark.parametrize("registry", [TRANSFORMS, BACKBONES], ids=lambda registry: registry.name)
def test_keys_of_an_entry_are_read_off_its_constructor(registry):
    """A dict beside arguments with defaults of the same names would be the same numbers twice."""
    for name in names(registry):
        entry = get(registry, name)
        if not inspect.isclass(entry) or not hasattr(entry, "defaults"):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(entry))).body
        written = [n for n in body.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "defaults"]
        assert not any(isinstance(node.value, ast.Dict) for node in written), f"{name}: use defaults_of(__init__)"
        assert entry.defaults.keys() <= inspect.signature(entry).parameters.keys(), name
