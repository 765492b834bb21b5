"""All combinations of some keys' values over several seeds in one table: the body of `occplug sweep`."""

from __future__ import annotations

import itertools
from pathlib import Path

from occplug.config import find_config
from occplug.errors import ConfigError
from occplug.experiments.kept import run_and_keep
from occplug.experiments.tables import Report
from occplug.experiments.trainings import known_runs, plan, share
from occplug.runs.session import start_logging
from occplug.utils.files import plain_name

__all__ = ["combinations", "sweep"]


def combinations(words: list[str]) -> list[dict[str, str]]:
    """Every combination of the values in `words`, each `KEY=V1,V2,...`; a value in brackets may hold commas.

    Raises:
        ConfigError: a word of another form, a key given twice, or a value given twice.
    """
    values: dict[str, list[str]] = {}
    for word in words:
        key, separator, text = word.partition("=")
        listed = _listed(text)
        if not separator or not key or not all(listed):
            raise ConfigError(f"{word!r} is not of the form KEY=V1,V2, e.g. train.lr=1e-4,3e-4")
        if key in values or len(set(listed)) < len(listed):
            raise ConfigError(f"{word}: give each key and each of its values once")
        values[key] = listed
    if not values:
        raise ConfigError("give a key and its values, e.g. train.lr=1e-4,3e-4")
    return [dict(zip(values, chosen)) for chosen in itertools.product(*values.values())]


def _listed(text: str) -> list[str]:
    """`text` at its commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def sweep(
    config: str,
    words: list[str],
    options: list | None = None,
    folder: Path = Path("log/sweep"),
    seeds: int = 3,
    jobs: int = 1,
    baseline: str | None = None,
    keep: Path | None = None,
    command: str = "",
    trains: bool = True,
) -> Report:
    """Train and test `config` with every combination of `words`, a row each, or read the runs that are complete.

    Args:
        config: a yaml file, or the name of one of occplug's.
        words: as `combinations` takes them.
        options: config keys over all rows.
        folder: runs go to `folder/<config>/<row>/seed<k>`.
        seeds, jobs, keep, command, trains: as of `compare`.
        baseline: a combination as its row is called, `KEY=V KEY2=W`; the first if not given.

    Raises:
        ConfigError: words of another form, a config that does not load, or a baseline that is none of the rows.
    """
    start_logging()
    file, titles = find_config(config), {}
    for chosen in combinations(words):
        titles[" ".join(f"{key}={value}" for key, value in chosen.items())] = chosen
    baseline = baseline or next(iter(titles))
    if baseline not in titles:
        raise ConfigError(f"--baseline is {baseline!r}, expected one of: {'; '.join(titles)}")
    place = folder / file.stem
    known, rows = known_runs(folder), {}
    for title, chosen in titles.items():
        own = [word for setting in chosen.items() for word in setting]
        planned = plan(plain_name(title), file, [*(options or []), *own], seeds, place)
        rows[title] = (title, share(planned, known))
    return Report(f"sweep of {file.stem}", run_and_keep(rows, jobs, keep, trains), place, command, baseline)
