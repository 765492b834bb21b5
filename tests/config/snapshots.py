"""What every config file resolves to, as stored values: a base or a default can be changed, and the diff names rows.

`python -m tests.config.snapshots` (or `make snapshots`) writes `snapshots.yaml` again; read its diff before a commit.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from occplug.config import default_config, load_config
from occplug.config.files import flatten
from occplug.registry import METHODS, names
from occplug.zoo import INDEX, read_index

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("snapshots.yaml")
HEAD = "# What each config resolves to; written by: make snapshots\n"
MODEL = "model.name"  # stated in each row, because it says what the row is stored relative to
STOCK = "resnet50"  # stands for every torchreid model: they have the same keys


class _Dumper(yaml.SafeDumper):
    """Lists on one line, no anchors: one line a value, so that a diff is a list of what moved."""

    def ignore_aliases(self, data) -> bool:
        return True


_Dumper.add_representer(
    list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def resolved() -> dict[str, dict[str, object]]:
    """Name -> values now: `default MODEL` without any file, every config by its bare name, and rows of the zoo.

    Of the zoo's rows only those with keys over their config; the others are their config.
    """
    defaults = {f"default {model}": default_config(model) for model in [STOCK, *names(METHODS)]}
    configs = {file.stem: load_config(file) for file in sorted((ROOT / "configs").glob("*.yaml"))}
    entries = [entry for entry in read_index(INDEX).entries.values() if entry.settings]
    zoo = {f"zoo://{entry.name}": load_config(ROOT / entry.config, entry.options) for entry in entries}
    return {name: dict(flatten(cfg)) for name, cfg in {**defaults, **configs, **zoo}.items()}


def text_of(rows: dict[str, dict[str, object]]) -> str:
    """`rows` as yaml; of each only what differs from the defaults of its model, of those what differs from STOCK's."""
    stored = {}
    for name, values in rows.items():
        base = rows.get(_base_of(name, values), {})
        stored[name] = {k: v for k, v in values.items() if k == MODEL or k not in base or base[k] != v}
    return HEAD + yaml.dump(stored, Dumper=_Dumper, sort_keys=False, width=200, allow_unicode=True)


def read(text: str) -> dict[str, dict[str, object]]:
    """What `text_of` was given."""
    rows: dict[str, dict[str, object]] = {}
    for name, values in yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)).items():
        rows[name] = rows.get(_base_of(name, values), {}) | values
    return rows


def _base_of(name: str, values: dict[str, object]) -> str | None:
    """The row that `name` is stored relative to; None: none."""
    if name == f"default {STOCK}":
        return None
    model = values.get(MODEL, STOCK)
    if name.startswith("default ") or model not in names(METHODS):
        return f"default {STOCK}"
    return f"default {model}"


def moved(before: dict[str, dict[str, object]], now: dict[str, dict[str, object]]) -> list[str]:
    """A line for each change of a value, with all the configs that it moves; one for configs that came or went."""
    absent = object()
    changes: dict[str, list[str]] = {}
    for name in [*before, *(name for name in now if name not in before)]:
        if name not in before or name not in now:
            changes.setdefault("new" if name in now else "gone", []).append(name)
            continue
        for key in [*before[name], *(key for key in now[name] if key not in before[name])]:
            old, new = before[name].get(key, absent), now[name].get(key, absent)
            if old != new or type(old) is not type(new):
                words = ["(no such key)" if value is absent else repr(value) for value in (old, new)]
                changes.setdefault(f"{key}: {' -> '.join(words)}", []).append(name)
    return [f"{change}  in {len(rows)}: {', '.join(rows)}" for change, rows in changes.items()]


if __name__ == "__main__":
    rows = resolved()
    for line in moved(read(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}, rows):
        print(line)
    FILE.write_text(text_of(rows), encoding="utf-8")
