"""`occplug ablate`: one table of a paper, rows x seeds, on the data set and backbone of a config.

Runs go to `SAVE_DIR/<config>/<table>/<row>/seed<k>`. One that is complete is read, also from another table of SAVE_DIR
if that has a row with the same settings; one that was interrupted goes on. With `--keep DIR` figures of every run are
kept in DIR as well, without weights, and taken from there in place of a training.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from occplug.cli.arguments import config_parser, parse_options
from occplug.config import find_config, load_config
from occplug.errors import ConfigError
from occplug.experiments.ablations import AblationRow, AblationTable, find_tables, settings_of
from occplug.experiments.kept import add_keep_option, run_and_keep
from occplug.experiments.markdown import check_marks
from occplug.experiments.tables import Report
from occplug.experiments.trainings import Training, known_runs, plan, share
from occplug.runs.session import start_logging
from occplug.utils.files import user_path

__all__ = ["ablate", "choose_table", "main", "plan_rows"]

log = logging.getLogger(__name__)


def main(argv: list[str]) -> None:
    """Parse `argv`, run and print."""
    parser = config_parser("ablate", "Train the rows of one ablation table over several seeds.")
    parser.add_argument("--table", required=True, metavar="NAME", help="a table of configs/ablations/<method>.yaml")
    parser.add_argument("--rows", nargs="+", metavar="R", help="only these rows")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="seeds 1..N of each row (3)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time (1)")
    parser.add_argument("--save-dir", type=user_path, default=Path("log/ablate"), metavar="DIR", help="log/ablate")
    parser.add_argument("--tables", type=user_path, metavar="FILE", help="another file of tables")
    add_keep_option(parser)
    parser.add_argument(
        "--readme", type=user_path, metavar="FILE", help="put the table between this command's marks in FILE"
    )
    args, options = parse_options(parser, argv)
    page = ablate(args, options, "python tools/ablate.py " + " ".join(argv))
    print(f"\nreport: {page}")


def ablate(args, options: list[str], command: str) -> Path:
    """Run the rows, print the table, write `report.html`, `results.md` and `results.json`; returns the page.

    Raises:
        ConfigError: an unknown table or row, a table of another method, overrides that the config refuses.
    """
    start_logging()
    given = find_config(args.config_file)
    mark = f"ablate {given.stem} {args.table}"
    if args.readme is not None:
        check_marks(args.readme, mark)
    table = choose_table(given, options, args.table, args.tables)
    folder = args.save_dir / given.stem / table.name
    planned, left_out = plan_rows(table, args.rows, given, options, args.seeds, folder)
    rows = run_and_keep(planned, args.jobs, args.keep)
    notes = [f"{table.source}", *(f"left out: {name} ({reason})" for name, reason in left_out.items())]
    published = {
        (name, cell.target): cell.figures
        for name, (_, trainings) in planned.items()
        for cell in table.rows[name].published
        if cell.target in trainings[0].cfg.data.targets and cell.fits(trainings[0].cfg)
    }
    report = Report(table.title, rows, folder, command, table.baseline, published, notes)
    print(f"\n{report.title}\n\n{report.markdown()}")
    return report.write(args.readme, mark)


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
    known = known_runs(folder.parents[1])

    def trainings_of(row: AblationRow, folder: Path = folder) -> list[Training] | str:
        """One a seed, or the reason why the row does not exist for this config."""
        found = settings_of(row, config_file, options)
        if isinstance(found, str):
            return found
        sources = trainings_of(table.rows[row.tests]) if row.tests else None
        if row.after:
            other, _, _ = row.after.rpartition(".")
            sources = trainings_of(table.sources[row.after], folder.with_name(other) if other else folder)
        if isinstance(sources, str):
            return sources
        file, settings = found
        after = sources if row.after else None
        planned = plan(row.name, file, [*options, *settings], seeds, folder, after)
        if row.tests:
            planned = [replace(training, tests=source) for training, source in zip(planned, sources)]
        return share(planned, known)

    for row in table.chosen(names):
        found = trainings_of(row)
        if not isinstance(found, str):
            made[row.name] = (row.title, found)
        elif names is None:
            log.warning("row %s is left out: %s", row.name, found)
            left_out[row.name] = found
        else:
            raise ConfigError(f"{row.origin}: it cannot be trained from {config_file}: {found}")
    if not made:
        raise ConfigError(f"no row of table {table.name} can be trained from {config_file}")
    return made, left_out
