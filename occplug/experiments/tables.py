"""Tables of rows over seeds: figures, differences from a baseline, published figures; as text, JSON and a page."""

from __future__ import annotations

import json
import os
import re
import statistics
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader
from scipy.stats import false_discovery_control
from tabulate import tabulate

import occplug
from occplug.errors import DataError
from occplug.evaluation import PairedDifference, paired_bootstrap
from occplug.experiments.markdown import replace_marked
from occplug.experiments.trainings import Row
from occplug.utils.files import write_atomically

__all__ = ["DASH", "Published", "Report", "beside", "differences", "false_discovery_rates", "machines", "spread"]

FIGURES = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10"}
DASH = "—"
DISCOVERY = 0.05  # share of the named differences that may be due to chance


@dataclass(frozen=True)
class Published:
    """What a paper states for a row on a target, in per cent; a figure nobody published is None."""

    figures: dict[str, float | None]
    source: str

    def __str__(self) -> str:
        values = [self.figures.get(key) for key in FIGURES]
        while len(values) > 2 and values[-1] is None:
            values.pop()
        return " / ".join(DASH if value is None else f"{value:.1f}" for value in values)


@dataclass
class Report:
    """One table per target, and where it goes.

    Args:
        title: of the page.
        rows: in the order of print.
        folder: gets `results.json`, `results.md` and `report.html`.
        command: that made it.
        baseline: name of the row that the others are compared with, or None.
        published: (row's name, target) -> published figures; None: the table has no such column.
        notes: lines below the tables.
        sections: more tables of the page: (title, heads, lines).
    """

    title: str
    rows: list[Row]
    folder: Path
    command: str
    baseline: str | None = None
    published: dict[tuple[str, str], Published] | None = None
    notes: list[str] = field(default_factory=list)
    sections: list[tuple[str, list[str], list[list]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.targets = list(self.rows[0].runs[0].figures)
        self.differences = {target: differences(self.rows, self.baseline, target) for target in self.targets}
        self.rates = {target: false_discovery_rates(rows) for target, rows in self.differences.items()}
        explained = (
            f"Δ: from {self.baseline}, each query's mean over seeds; paired bootstrap over the queries' identities, 95 "
            "% interval, with the seeds as they are; p is of each difference alone"
        )
        compared = [explained, *self._remaining()] if any(self.differences.values()) else []
        self.footer = [
            f"per cent, mean ± standard deviation over seeds; {machines(self.rows)}; `{self.command}`",
            *compared,
            *_protocols(self.rows),
            *_codes(self.rows),
        ]

    def _remaining(self) -> list[str]:
        """A line a target: the differences that stay if a share of 5 % of those named may be due to chance."""
        lines = []
        for target, rates in self.rates.items():
            titles = {row.name: row.title for row in self.rows}
            stay = {titles[name]: [FIGURES[key] for key in q if q[key] <= DISCOVERY] for name, q in rates.items()}
            named = "; ".join(f"{title} ({', '.join(keys)})" for title, keys in stay.items() if keys)
            where = f" on {target}" if len(self.targets) > 1 else ""
            count = sum(map(len, rates.values()))
            text = (
                f"at a false discovery rate of {DISCOVERY:.0%} (Benjamini-Hochberg), of the {count} differences{where} "
            )
            lines.append(f"{text}remain: {named}" if named else f"{text}none remains")
        return lines

    def write(self, readme: Path | None = None, mark: str = "", figure: Path | None = None) -> Path:
        """Write all files, and the text between the marks `mark` of `readme`, with `figure` above; returns the page."""
        page, text = self.folder / "report.html", self.markdown()
        template = Environment(loader=PackageLoader("occplug", "assets"), autoescape=True).get_template("table.html")
        tables = [(target, self.heads(), self.lines(target)) for target in self.targets]
        html = template.render(report=self, tables=tables, figures=FIGURES, version=occplug.__version__)
        content = json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n"
        files = {"results.json": content, "results.md": f"# {self.title}\n\n{text}\n", page.name: html}
        for name, written in files.items():
            write_atomically(self.folder / name, partial(Path.write_text, data=written, encoding="utf-8"))
        if readme is not None:
            picture = "" if figure is None else f"![{self.title}]({beside(figure, readme)})\n\n"
            replace_marked(readme, mark, picture + text)
        return page

    def folders(self) -> dict[str, Path]:
        """Title -> folder of the first run, of the rows that have one; those kept in a file have none any more."""
        folders = {row.title: row.runs[0].folder for row in self.rows}
        return {title: folder for title, folder in folders.items() if folder is not None and folder.is_dir()}

    def heads(self) -> list[str]:
        """Column titles."""
        compared = ["Δ mAP", "Δ Rank-1"] if any(self.differences.values()) else []
        return ["model", "seeds", *FIGURES.values(), *compared, *(["published"] if self.published is not None else [])]

    def lines(self, target: str) -> list[list[str]]:
        """Cells of the table of `target`."""
        lines = []
        for row in self.rows:
            values = ([run.figures[target][key] for run in row.runs] for key in FIGURES)
            line = [row.title, str(len(row.runs)), *map(spread, values)]
            if any(self.differences.values()):
                of_row = self.differences[target].get(row.name)
                line += [_difference(of_row[key]) for key in ("mAP", "rank1")] if of_row else [DASH, DASH]
            if self.published is not None:
                line.append(str(self.published.get((row.name, target), DASH)))
            lines.append(line)
        return lines

    def markdown(self) -> str:
        """Tables, sources and notes."""
        parts = []
        for target in self.targets:
            table = tabulate(self.lines(target), self.heads(), tablefmt="github", disable_numparse=True)
            parts.append(f"{target}\n\n{table}" if len(self.targets) > 1 else table)
        return "\n\n".join([*parts, "  \n".join([*self.footer, *self.sources(), *self.notes])])

    def sources(self) -> list[str]:
        """Where the published figures are from, as a line."""
        named = dict.fromkeys(published.source for published in (self.published or {}).values())
        return ["published: mAP / Rank-1 (/ Rank-5 / Rank-10), " + "; ".join(named)] if named else []

    def as_json(self) -> dict:
        """Everything the tables show, figures as fractions, published ones in per cent as printed there."""
        about = {
            "title": self.title,
            "command": self.command,
            "machine": machines(self.rows),
            "version": occplug.__version__,
        }
        targets = {target: [self._row_as_json(row, target) for row in self.rows] for target in self.targets}
        return {**about, "baseline": self.baseline, "notes": self.notes, "targets": targets}

    def _row_as_json(self, row: Row, target: str) -> dict:
        runs = [{"seed": r.seed, **r.figures[target], "seconds": r.seconds, "protocol": r.protocol} for r in row.runs]
        values = {key: [run[key] for run in runs] for key in FIGURES}
        of_row = self.differences[target].get(row.name)
        published = (self.published or {}).get((row.name, target))
        return {
            "row": row.name,
            "title": row.title,
            "mean": {key: statistics.mean(v) for key, v in values.items()},
            "sd": {key: statistics.stdev(v) if len(v) > 1 else None for key, v in values.items()},
            "difference": {key: asdict(each) for key, each in of_row.items()} if of_row else None,
            "false_discovery_rate": self.rates[target].get(row.name),
            "published": asdict(published) if published else None,
            "runs": runs,
        }


def differences(rows: list[Row], baseline: str | None, target: str) -> dict[str, dict[str, PairedDifference]]:
    """Row -> mAP and Rank-1 of its queries against those of the row `baseline`; empty if that is not among `rows`.

    A query's value is its mean over the row's seeds.

    Raises:
        DataError: two runs were tested on different queries.
    """
    by_name = {row.name: row for row in rows}
    if baseline not in by_name:
        return {}
    images, identities, base = _per_query(by_name[baseline], target)
    result = {}
    for row in rows:
        if row.name != baseline:
            own_images, own_identities, values = _per_query(row, target)
            if not (np.array_equal(images, own_images) and np.array_equal(identities, own_identities)):
                raise DataError(f"{row.name} and {baseline} were tested on different queries of {target}")
            result[row.name] = {key: paired_bootstrap(values[key], base[key], identities) for key in values}
    return result


def false_discovery_rates(differences: dict[str, dict[str, PairedDifference]]) -> dict[str, dict[str, float]]:
    """Row -> figure -> q: of the differences with at most this q, a share of q is expected to be due to chance.

    Benjamini & Hochberg (1995) over all p values of a table, which depend on each other positively: they share the
    baseline.
    """
    places = [(row, key) for row, figures in differences.items() for key in figures]
    if not places:
        return {}
    rates = false_discovery_control([differences[row][key].p for row, key in places])
    result: dict[str, dict[str, float]] = {row: {} for row in differences}
    for (row, key), q in zip(places, rates.tolist()):
        result[row][key] = q
    return result


def _per_query(row: Row, target: str) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Images [Q], pids [Q] and the values [Q] of average precision and Rank-1, means over the row's seeds."""
    queries = [run.queries[target] for run in row.runs]
    if not all(np.array_equal(getattr(q, key), getattr(queries[0], key)) for q in queries for key in ("image", "pid")):
        raise DataError(f"the seeds of {row.name} were tested on different queries of {target}")
    ap, rank1 = np.mean([each.ap for each in queries], axis=0), np.mean([each.rank1 for each in queries], axis=0)
    return queries[0].image, queries[0].pid, {"mAP": ap, "rank1": rank1}


def spread(fractions: list[float]) -> str:
    """Mean in per cent, with the standard deviation if there are several values."""
    mean = f"{100 * statistics.mean(fractions):.1f}"
    return f"{mean} ± {100 * statistics.stdev(fractions):.1f}" if len(fractions) > 1 else mean


def beside(figure: Path, document: Path) -> str:
    """The path of `figure` as a link in `document`."""
    return Path(os.path.relpath(figure.absolute(), document.absolute().parent)).as_posix()


def _codes(rows: list[Row]) -> list[str]:
    """A line if the runs are not all of the same code."""
    codes = sorted({run.code or "not recorded" for row in rows for run in row.runs if run.made})
    return [f"made by {len(codes)} versions of the code (`sources` {', '.join(codes)})"] if len(codes) > 1 else []


# beginnings of a protocol line's parts that say how a method is made; rows differ in these anyway
_OF_THE_METHOD = ("feature ", "stride ", "camera input ")


def _protocols(rows: list[Row]) -> list[str]:
    """A line if the runs were not all tested the same way: figures of other protocols are not comparable."""
    parts = {row.title: [run.protocol.split("; ")[1:] for run in row.runs if run.made] for row in rows}
    kinds: dict[tuple[str, ...], list[str]] = {}
    for title, protocols in parts.items():
        for line in protocols:
            told = tuple(
                re.sub(" of (squared|plain) distances$", "", part)  # which of them is the method's
                for part in line
                if not part.startswith(_OF_THE_METHOD) and not _is_distance(part)
            )
            kinds.setdefault(told, []).append(title)
    if len(kinds) < 2:
        return []
    common = set.intersection(*map(set, kinds))
    named = [f"{', '.join(dict.fromkeys(titles))}: {_rest(told, common)}" for told, titles in kinds.items()]
    return [f"not tested the same way, so not comparable: {' | '.join(named)}"]


def _is_distance(part: str) -> bool:
    return part == "distance of the method" or part.endswith(" distance")


def _rest(told: tuple[str, ...], common: set[str]) -> str:
    return "; ".join(part for part in told if part not in common) or "the rest"


def _difference(paired: PairedDifference) -> str:
    p = "p < 0.001" if paired.p < 0.001 else f"p = {paired.p:.3f}"
    return f"{100 * paired.difference:+.1f} [{100 * paired.low:+.1f}, {100 * paired.high:+.1f}], {p}"


def machines(rows: list[Row]) -> str:
    """On what, with which torch and when the runs were made, each kind once."""
    return "; ".join(sorted({run.made for row in rows for run in row.runs if run.made}))
