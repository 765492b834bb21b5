"""`model_zoo.md`, written from the index."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from scipy.stats import kendalltau
from tabulate import tabulate

from occplug.zoo.index import Entry, Index, Made, Measured, Published
from occplug.zoo.verifying import CONFIDENCE, QUERIES, TOLERANCE

__all__ = ["markdown", "overview"]

TITLES = {
    "synthocc": "SynthOcc",
    "occluded_duke": "Occluded-Duke",
    "occluded_reid": "Occluded-REID",
    "p_dukemtmc": "P-DukeMTMC",
    "occluded_market": "Occluded-Market",
    "market1501": "Market-1501",
    "dukemtmcreid": "DukeMTMC-reID",
    "msmt17": "MSMT17",
}
_HEADS = ["zoo://", "config", "published mAP / R1", "ours mAP / R1", "seeds", "weights", "official log"]
_DRIVE = "https://drive.google.com/file/d/{}/view"
_INTRODUCTION = """\
# Model zoo

Made from [the index](occplug/zoo/index.yaml) by `python tools/zoo.py table`; not to be edited by hand.

Figures are per cent, mAP / Rank-1 without re-ranking. *Published* is what others state, with its source by number.
*Ours* is what runs of this repository gave, mean ± standard deviation over seeds, and nothing else: most cells say
"not measured", because the real data sets cannot be reached from where this was made. Figures on SynthOcc, which is
rendered, never belong beside published ones. `verify` accepts what other processors round otherwise: mAP within {mAP:g}
points, a rank within the larger of {mAP:g} points and {queries} queries; after a new training, what {confidence:g} % of
new seeds would give (about the mean over seeds, with the spread of all entries on the data set).

```bash
python tools/test.py --weights zoo://clip_reid/vit_b16_sie_olp/occduke --root DIR   # fetch, import, evaluate
python tools/zoo.py verify NAME                                                    # do our figures still come out?
```
"""


def markdown(index: Index) -> str:
    """The whole document."""
    sources: dict[str, int] = {}
    entries = list(index.entries.values())
    known = [data for data in TITLES if any(entry.data == data for entry in entries)]
    parts = [_INTRODUCTION.format(mAP=100 * TOLERANCE, queries=QUERIES, confidence=100 * CONFIDENCE)]
    for data in [*known, *sorted({entry.data for entry in entries} - set(TITLES))]:
        rows = [_row(index, entry, sources) for entry in entries if entry.data == data]
        parts += [
            f"## {TITLES.get(data, data)}\n",
            tabulate(rows, _HEADS, tablefmt="github", disable_numparse=True),
            "",
        ]
    numbered = [f"{number}. {source}." for source, number in sources.items()]
    parts += ["## Sources of published figures\n", *numbered, ""]
    notes = [f"- `{entry.name}`: {entry.notes}" for entry in entries if entry.notes]
    parts += ["## Notes\n", *notes, "", *_measurements(entries), *_licences(index)]
    return "\n".join(parts) + "\n"


def overview(index: Index) -> str:
    """The short table: a row a method, what is published on its real data set and what we measured on SynthOcc."""
    heads = ["method", "paper", "config", "published mAP / R1", "SynthOcc mAP / R1", "weights"]
    rows = []
    for shown in index.overview:
        real, rendered = index.find(shown["published"]), index.find(shown["synthocc"])
        weights = f"`zoo://{rendered.name}`" if rendered.checkpoint else "none"
        published = [p for p in real.published if p.mAP is not None][:1]
        figures = " / ".join(_figure(value) for value in (published[0].mAP, published[0].rank1)) if published else "—"
        where = f" ({TITLES.get(real.data, real.data)})" if published else ""
        rows.append([
            shown["title"],
            shown["paper"],
            f"[{Path(real.config).stem}]({real.config})",
            figures + where,
            _ours(rendered.ours),
            weights,
        ])  # fmt: skip
    return "\n\n".join([tabulate(rows, heads, tablefmt="github", disable_numparse=True), *_agreements(index)])


def _agreements(index: Index) -> list[str]:
    """A sentence: is the order of the methods on SynthOcc that of the published figures?"""
    found = []
    for key, name in (("mAP", "mAP"), ("rank1", "Rank-1")):
        pairs = list(_pairs(index, key))
        if len(pairs) > 2:
            tau = kendalltau(*zip(*pairs))
            found.append(f"by {name} {tau.statistic:.2f} (p = {tau.pvalue:.3f}, {len(pairs)} methods)")
    return [f"Kendall's tau between the published order and that on SynthOcc: {', '.join(found)}."] if found else []


def _pairs(index: Index, key: str) -> Iterator[tuple[float, float]]:
    """Published and our figure of each row of the overview that has both; ours is the mean over seeds, not rounded."""
    for shown in index.overview:
        published = [p for p in index.find(shown["published"]).published if p.mAP is not None][:1]
        ours = index.find(shown["synthocc"]).ours
        if published and ours and (value := getattr(published[0], key)) is not None:
            yield value, statistics.mean(run.figures[key] for run in ours.runs)


def _row(index: Index, entry: Entry, sources: dict[str, int]) -> list[str]:
    config = f"[{entry.config.rpartition('/')[2]}]({entry.config})"
    if entry.settings:
        config += f" {_settings(entry.settings)}"
    return [
        f"`{entry.name}`",
        config,
        "; ".join(_published(published, sources) for published in entry.published) or "not published",
        _ours(entry.ours),
        str(len(entry.ours.runs)) if entry.ours else "",
        _weights(index, entry),
        _link("log", entry.log) if entry.log else "",
    ]


def _settings(settings: dict[str, object]) -> str:
    return "`" + " ".join(f"{key} {value}" for key, value in settings.items()) + "`"


def _published(published: Published, sources: dict[str, int]) -> str:
    number = sources.setdefault(published.source, len(sources) + 1)
    return f"{_figure(published.mAP)} / {_figure(published.rank1)} ({number})"


def _figure(per_cent: float | None) -> str:
    return "—" if per_cent is None else f"{per_cent:.1f}"


def _ours(ours: Measured | None) -> str:
    if ours is None:
        return "not measured"
    mark = " †" if ours.config else ""
    return " / ".join(_spread([run.figures[key] for run in ours.runs]) for key in ("mAP", "rank1")) + mark


def _spread(fractions: list[float]) -> str:
    """Mean in per cent, with the standard deviation if there are several values."""
    mean = f"{100 * statistics.mean(fractions):.1f}"
    return f"{mean} ± {100 * statistics.stdev(fractions):.1f}" if len(fractions) > 1 else mean


def _weights(index: Index, entry: Entry) -> str:
    point = entry.checkpoint
    if point is None:
        return "none"
    size = "" if point.size is None else f", {point.size / 1e6:.1f} MB"
    if point.file is not None:
        return f"in the package (seed {point.seed}{size})"
    return _link("official", {"url": point.url} if point.url else {"drive": point.drive or ""}) + size


def _link(text: str, place: dict[str, str]) -> str:
    return f"[{text}]({place['url'] if 'url' in place else _DRIVE.format(place['drive'])})"


def _measurements(entries: list[Entry]) -> list[str]:
    """How our own figures were made."""
    lines = [f"- `{entry.name}`: {_measurement(entry.ours)}" for entry in entries if entry.ours is not None]
    if not lines:
        return []
    legend = "† marks figures of runs with other settings than the config's.\n"
    return ["## How ours were measured\n", legend, *lines, ""]


def _measurement(ours: Measured) -> str:
    minutes = _range([run.minutes for run in ours.runs])
    known = [run.memory_mib for run in ours.runs if run.memory_mib is not None]
    parts = [
        f"`{ours.command}`",
        f"with {_settings(ours.config)}" if ours.config else "with the config's settings",
        f"{minutes} min a run",
        f"{max(known):,} MiB at the peak" if known else "peak memory not recorded",
        ", ".join(sorted({run.date for run in ours.runs})),
        *(_made(made, several=len(ours.made) > 1) for made in ours.made),
    ]
    return "; ".join(parts)


def _made(made: Made, several: bool) -> str:
    seeds = f"seed{'s' * (len(made.seeds) > 1)} {', '.join(map(str, made.seeds))}: " if several else ""
    versions = ", ".join(f"{name} {version}" for name, version in made.versions.items()) or "versions not recorded"
    return f"{seeds}machine {made.machine}, revision {made.revision}, {versions}"


def _range(values: list[float]) -> str:
    """Lowest to highest."""
    low, high = (f"{value:.1f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _licences(index: Index) -> list[str]:
    lines = ["## Licences\n"]
    for kind, title in (("code", "Code"), ("weights", "Initial weights"), ("data", "Data")):
        lines += [f"- {title}, `{name}`: {text}." for name, text in index.licences[kind].items()]
    return lines
