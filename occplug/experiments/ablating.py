"""One table of a paper, rows x seeds, on the data set and backbone of a config: the body of `occplug ablate`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from occplug.config import find_config, load_config
from occplug.errors import ConfigError
from occplug.experiments.ablations import AblationRow, AblationTable, RowNotAvailable, find_tables, settings_of
from occplug.experiments.kept import run_and_keep
from occplug.experiments.tables import Report
from occplug.experiments.trainings import Training, known_runs, plan, share
from occplug.runs.session import start_logging

__all__ = ["ablate", "choose_table", "plan_rows"]

log = logging.getLogger(__name__)


def ablate(
    config_file,
    table: str,
    options: list[str] | None = None,
    rows: list[str] | None = None,
    folder: Path = Path("log/ablate"),
    seeds: int = 3,
    jobs: int = 1,
    keep: Path | None = None,
    tables_file: Path | None = None,
    command: str = "",
    trains: bool = True,
) -> Report:
    """Train and test the rows of `table`, or read the runs that are complete.

    Runs go to `folder/<config>/<table>/<row>/seed<k>`. One that is complete is read, also from another table of
    `folder` if that has a row with the same settings; one that was interrupted goes on.

    Args:
        config_file: path or name of a config; the table is one of its method's.
        options: config keys over every row, as `load_config` takes them.
        rows: names of rows; None for all that the config allows.
        seeds: 1 to this number, of each row.
        jobs: trainings at a time.
        keep: a file or folder of kept runs, see `run_and_keep`.
        tables_file: in place of `ablations/<method>.yaml` beside the config.
        command: stands below the table, so that it can be made again.
        trains: False: runs that are missing are an error.

    Raises:
        MissingRuns: some, with `trains` False.
        ConfigError: an unknown table or row, a table of another method, overrides that the config refuses.
    """
    options = options or []
    start_logging()
    given = find_config(config_file)
    chosen = choose_table(given, options, table, tables_file)
    folder = folder / given.stem / chosen.name
    planned, left_out = plan_rows(chosen, rows, given, options, seeds, folder)
    made = run_and_keep(planned, jobs, keep, trains)
    notes = [chosen.source, *(f"left out: {name} ({reason})" for name, reason in left_out.items())]
    published = {
        (name, cell.target): cell.figures
        for name, (_, trainings) in planned.items()
        for cell in chosen.rows[name].published
        if cell.target in trainings[0].cfg.data.targets and cell.fits(trainings[0].cfg)
    }
    return Report(chosen.title, made, folder, command, chosen.baseline, published, notes)


def choose_table(config_file: Path, options: list, name: str, tables_file: Path | None = None) -> AblationTable:
    """The table `name` of the config's method.

    Raises:
        ConfigError: there is none; lists those there are, and says if the name is a table of another method.
    """
    method = load_config(config_file, options).model.name
    tables = find_tables(config_file, method, tables_file)
    if name in tables:
        return tables[name]
    folder = config_file.parent / "ablations"
    others = [m for m in sorted(path.stem for path in folder.glob("*.yaml")) if m != method]
    owners = [other for other in others if name in find_tables(config_file, other)]
    hint = f"; {name} is a table of {', '.join(owners)}, so give a config of that method" if owners else ""
    raise ConfigError(f"{method} has no table {name!r}; it has: {', '.join(tables)}{hint}")


def plan_rows(
    table: AblationTable, names: list[str] | None, config_file: Path, options: list, seeds: int, folder: Path
) -> tuple[dict[str, tuple[str, list[Training]]], dict[str, str]]:
    """Row -> (title, trainings), and row -> why it was left out. Every config is resolved before anything runs.

    Raises:
        ConfigError: a row that was asked for by name does not exist for this config, or no row is left.
    """
    made, left_out = {}, {}
    planner = _Planner(table, config_file, options, seeds, known_runs(folder.parents[1]))
    for row in table.chosen(names):
        try:
            made[row.name] = (row.title, planner.trainings_of(row, folder))
        except RowNotAvailable as error:
            if names is not None:
                raise ConfigError(f"{row.origin}: it cannot be trained from {config_file}: {error}") from error
            log.warning("row %s is left out: %s", row.name, error)
            left_out[row.name] = str(error)
    if not made:
        raise ConfigError(f"no row of table {table.name} can be trained from {config_file}")
    return made, left_out


@dataclass(frozen=True)
class _Planner:
    """Trainings of the rows of `table` over a config; runs of equal configs, those of `known` too, are made once."""

    table: AblationTable
    config_file: Path
    options: list
    seeds: int
    known: dict[str, Path]

    def trainings_of(self, row: AblationRow, folder: Path) -> list[Training]:
        """One a seed, with those they build on. Raises RowNotAvailable as `settings_of`, for those too."""
        file, settings = settings_of(row, self.config_file, self.options)
        tested = self.trainings_of(self.table.rows[row.tests], folder) if row.tests else None
        after = None
        if row.after:
            other, _, _ = row.after.rpartition(".")
            after = self.trainings_of(self.table.sources[row.after], folder.with_name(other) if other else folder)
        planned = plan(row.name, file, [*self.options, *settings], self.seeds, folder, after)
        if tested is not None:
            planned = [replace(one, tests=source) for one, source in zip(planned, tested)]
        return share(planned, self.known)
