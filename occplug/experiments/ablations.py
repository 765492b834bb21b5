"""Ablation tables as data: `configs/ablations/<method>.yaml`, rows of overrides over any config of the method.

method: clip_reid
tables:
  prompts:                          # --table
    title: ...
    source: ...                     # where the table is published, or what it is if it is not
    baseline: baseline              # the row the others are tested against
    rows:
      baseline:                     # --rows; also the name of its folder
        title: ...                  # printed; the name by default
        config: x_{data}.yaml       # start from this file beside the given one ({data}: the given name's last word)
        where: {KEY: [VALUE, ...]}  # the row exists only where the config has one of these values
        set: {KEY: VALUE, ...}      # overrides; "${KEY}" stands for that key's value in the config
        tests: ROW                  # nothing is trained: the weights of that row are tested with these overrides
        after: ROW                  # builds on that row's run of the same seed, whose folder `set` names as ${run};
                                    # TABLE.ROW for a row of another table of the file. Where fewer stages are
                                    # trained, other batches are drawn: compare such rows with each other
        published:                  # per target, in per cent; null where nobody published a figure
          - {target: NAME, where: {KEY: [VALUE, ...]}, mAP: 53.5, rank1: null, source: ...}
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from occplug.config import load_config
from occplug.config.files import Setting, flatten, parse_yaml
from occplug.errors import ConfigError
from occplug.experiments.tables import Published
from occplug.experiments.trainings import RUN

__all__ = [
    "AblationRow",
    "AblationTable",
    "PublishedCell",
    "RowNotAvailable",
    "find_tables",
    "load_tables",
    "settings_of",
]

NAME = re.compile(r"[a-z0-9_+-]+")  # a folder's name; no dot, or --rows could not tell it from a config key
REFERENCE = re.compile(r"\$\{([\w.]+)\}")
FIGURES = ("mAP", "rank1", "rank5", "rank10")


class RowNotAvailable(ConfigError):
    """A row of a table does not exist for the config; the message is the reason."""


@dataclass(frozen=True)
class PublishedCell:
    """Published figures, and the target and config values they belong to."""

    target: str
    where: dict[str, list]
    figures: Published

    def fits(self, cfg) -> bool:
        """Whether a run of `cfg` may stand beside the figures."""
        known = dict(flatten(cfg))
        return all(known.get(key) in values for key, values in self.where.items())


@dataclass(frozen=True)
class AblationRow:
    """Overrides of one row; see the head of this file."""

    name: str
    origin: str
    title: str
    overrides: dict[str, object] = field(default_factory=dict)
    config: str | None = None
    where: dict[str, list] = field(default_factory=dict)
    tests: str | None = None
    after: str | None = None
    published: tuple[PublishedCell, ...] = ()

    def config_file(self, given: Path) -> Path:
        """The config that this row's overrides go over, where the user gave `given`."""
        return given.with_name(self.config.replace("{data}", given.stem.rsplit("_", 1)[-1])) if self.config else given


@dataclass(frozen=True)
class AblationTable:
    """One table of a method.

    Args:
        sources: the rows that `after` of this table's rows names, under that name.
    """

    name: str
    method: str
    file: Path
    title: str
    source: str
    baseline: str
    rows: dict[str, AblationRow]
    sources: dict[str, AblationRow] = field(default_factory=dict)

    def chosen(self, names: list[str] | None) -> list[AblationRow]:
        """The rows `names`, in the table's order; all of them for None. Raises ConfigError for an unknown one."""
        for name in names or []:
            if name not in self.rows:
                raise ConfigError(f"--rows: table {self.name} has no row {name!r}; it has: {', '.join(self.rows)}")
        return [row for row in self.rows.values() if names is None or row.name in names]


def find_tables(config_file: Path, method: str, given: Path | None = None) -> dict[str, AblationTable]:
    """Tables of `method`: those of the file `given`, else of `ablations/<method>.yaml` beside the config.

    Raises:
        ConfigError: no such file, one of another method, or what `load_tables` objects to.
    """
    folder = config_file.parent / "ablations"
    file = given or folder / f"{method}.yaml"
    if not file.is_file():
        others = ", ".join(sorted(path.stem for path in folder.glob("*.yaml"))) or "none"
        raise ConfigError(
            f"{file}: there is no such file of tables for {method}, the method of {config_file}; methods with tables "
            f"there: {others}. Name another file with --tables"
        )
    tables = load_tables(file)
    for table in tables.values():
        if table.method != method:
            raise ConfigError(f"{file} holds the tables of {table.method}, but {config_file} is a config of {method}")
    return tables


def load_tables(file: Path) -> dict[str, AblationTable]:
    """All tables of `file`, by name. Raises ConfigError that names file, table and row."""
    content = _checked(parse_yaml(file), str(file), {"method": str, "tables": dict})
    tables = {name: _table(name, node, content["method"], file) for name, node in content["tables"].items()}
    return {name: replace(table, sources=_sources(table, tables)) for name, table in tables.items()}


def settings_of(row: AblationRow, config_file: Path, options: list) -> tuple[Path, list[Setting]]:
    """The config file of `row` and the settings it puts over it.

    Args:
        config_file: the user's.
        options: the user's, of `load_config`.

    Raises:
        RowNotAvailable: the row does not exist for this config; the message is the reason.
        ConfigError: `load_config` objects, or a reference names no key.
    """
    file = row.config_file(config_file)
    if not file.is_file():
        raise RowNotAvailable(f"{file} does not exist")
    cfg = load_config(file, options)
    known = dict(flatten(cfg))
    if others := [key for key, values in row.where.items() if known.get(key) not in values]:
        values = ", ".join(f"{key} is {known.get(key)!r}" for key in others)
        raise RowNotAvailable(f"made for other configs: {values}")
    return file, [Setting(key, _resolved(value, known, row.origin), row.origin) for key, value in row.overrides.items()]


def _resolved(value, known: dict, origin: str):
    reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    if reference is None or value == RUN:
        return value
    if reference[1] not in known:
        raise ConfigError(f"{origin}: {value} refers to a key that the config does not have")
    return known[reference[1]]


# ---------------------------------------------------------------------- reading


def _table(name: str, node, method: str, file: Path) -> AblationTable:
    origin = f"{file}, table {name}"
    node = _checked(node, origin, {"title": str, "source": str, "baseline": str, "rows": dict})
    rows = {row: _row(row, content, f"{origin}, row {row}") for row, content in node["rows"].items()}
    if node["baseline"] not in rows:
        raise ConfigError(f"{origin}: baseline is {node['baseline']!r}, expected one of its rows: {', '.join(rows)}")
    trained = [row.name for row in rows.values() if row.tests is None]
    for row in rows.values():
        if row.tests is not None and row.tests not in trained:
            known = ", ".join(trained)
            raise ConfigError(f"{row.origin}: tests is {row.tests!r}, expected a row with weights: {known}")
        _check_run(row)
    return AblationTable(name, method, file, node["title"], node["source"], node["baseline"], rows)


def _sources(table: AblationTable, tables: dict[str, AblationTable]) -> dict[str, AblationRow]:
    """The rows that `after` names in `table`: its own by name, those of another of `tables` as TABLE.ROW."""
    sources = {}
    for row in table.rows.values():
        if row.after is None:
            continue
        other, _, name = row.after.rpartition(".")
        if other and other not in tables:
            raise ConfigError(f"{row.origin}: after is {row.after!r}, but the tables are: {', '.join(tables)}")
        there = tables[other] if other else table
        whole = [source.name for source in there.rows.values() if source.tests is None and source.after is None]
        if name not in whole:
            kind = f"a row of {there.name} that trains every stage" if other else "a row that trains every stage"
            raise ConfigError(f"{row.origin}: after is {row.after!r}, expected {kind}: {', '.join(whole)}")
        sources[row.after] = there.rows[name]
    return sources


def _check_run(row: AblationRow) -> None:
    uses = any(isinstance(value, str) and RUN in value for value in row.overrides.values())
    if row.after and row.tests:
        raise ConfigError(f"{row.origin}: a row that tests {row.tests!r} trains nothing, so it has no after")
    if uses != bool(row.after):
        said = f"set names {RUN}, but after says no row" if uses else f"after is {row.after!r}, but set names no {RUN}"
        raise ConfigError(f"{row.origin}: {said}")


def _row(name: str, node, origin: str) -> AblationRow:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{origin}: a row's name is a word of small letters, digits, _, + and -")
    optional = {"title": str, "set": dict, "config": str, "where": dict, "tests": str, "after": str, "published": list}
    node = _checked(node or {}, origin, {}, optional)
    cells = tuple(_cell(cell, f"{origin}, published") for cell in node.get("published") or [])
    where = _conditions(node.get("where"), origin)
    overrides = dict(flatten(node.get("set") or {}))
    title = node.get("title") or name
    return AblationRow(
        name, origin, title, overrides, node.get("config"), where, node.get("tests"), node.get("after"), cells
    )


def _cell(node, origin: str) -> PublishedCell:
    required = {"target": str, "mAP": (float, int), "rank1": (float, int), "source": str}
    optional = {"where": dict, "rank5": (float, int), "rank10": (float, int)}
    node = _checked(node, origin, required, optional, nullable=FIGURES)
    figures = {key: None if node.get(key) is None else float(node[key]) for key in FIGURES}
    if any(value is not None and not 0 <= value <= 100 for value in figures.values()):
        raise ConfigError(f"{origin}: figures are per cent, got {figures}")
    return PublishedCell(node["target"], _conditions(node.get("where"), origin), Published(figures, node["source"]))


def _conditions(node: dict | None, origin: str) -> dict[str, list]:
    where: dict[str, Any] = dict(flatten(node or {}))
    for key, values in where.items():
        if not isinstance(values, list):
            raise ConfigError(f"{origin}: where {key} is {values!r}, expected a list of the values it may have")
    return where


def _checked(node, origin: str, required: dict, optional: dict | None = None, nullable: tuple = ()) -> dict:
    """`node` if it has all `required` keys, no others than the `optional` ones, and values of their types."""
    optional = optional or {}
    kinds = {**required, **optional}
    if not isinstance(node, dict):
        raise ConfigError(f"{origin}: expected keys {', '.join(kinds)}, but it holds {node!r}")
    for key in required:
        if key not in node:
            raise ConfigError(f"{origin}: {key} is missing")
    for key, value in node.items():
        if key not in kinds:
            raise ConfigError(f"{origin}: there is no key {key!r}; there are: {', '.join(kinds)}")
        may_be_null = key in optional or key in nullable
        if not (value is None and may_be_null) and (not isinstance(value, kinds[key]) or isinstance(value, bool)):
            raise ConfigError(f"{origin}: {key} is {value!r}, which is not of the expected kind")
    return node
