"""`model_zoo.md`, written from the index."""

from __future__ import annotations

import statistics

from tabulate import tabulate

from occplug.zoo.index import Entry, Index, Measured, Published

__all__ = ["markdown"]

TITLES = {
    "synthocc": "SynthOcc small",
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
rendered, never belong beside published ones.

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
    parts = [_INTRODUCTION]
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


def _row(index: Index, entry: Entry, sources: dict[str, int]) -> list[str]:
    config = f"[{entry.config.rpartition('/')[2]}]({entry.config})"
    if entry.settings:
        config += " `" + " ".join(f"{key} {value}" for key, value in entry.settings.items()) + "`"
    return [
        f"`{entry.name}`",
        config,
        "; ".join(_published(published, sources) for published in entry.published) or "not published",
        _ours(entry.ours),
        str(len(entry.ours.runs)) if entry.ours else "",
        _weights(index, entry),
        _link("log", entry.log) if entry.log else "",
    ]


def _published(published: Published, sources: dict[str, int]) -> str:
    number = sources.setdefault(published.source, len(sources) + 1)
    figures = ("—" if value is None else f"{value:.1f}" for value in (published.mAP, published.rank1))
    return f"{' / '.join(figures)} ({number})"


def _ours(ours: Measured | None) -> str:
    if ours is None:
        return "not measured"
    return " / ".join(_spread([run.figures[key] for run in ours.runs]) for key in ("mAP", "rank1"))


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
    return _link("official", {"url": point.url} if point.url else {"drive": point.drive}) + size


def _link(text: str, place: dict[str, str]) -> str:
    return f"[{text}]({place['url'] if 'url' in place else _DRIVE.format(place['drive'])})"


def _measurements(entries: list[Entry]) -> list[str]:
    """How our own figures were made."""
    lines = ["## How ours were measured\n"]
    for entry in entries:
        if entry.ours is not None:
            o = entry.ours
            minutes = _range([run.minutes for run in o.runs])
            known = [run.memory_mib for run in o.runs if run.memory_mib is not None]
            memory = f"{max(known):,} MiB at the peak" if known else "peak memory not recorded"
            versions = ", ".join(f"{name} {version}" for name, version in o.versions.items()) or "versions not recorded"
            lines.append(
                f"- `{entry.name}`: `{o.command}`; {minutes} min a run, {memory}; {o.machine}; {o.date}; revision "
                f"{o.revision}; {versions}"
            )
    return [*lines, ""] if len(lines) > 1 else []


def _range(values: list[float]) -> str:
    """Lowest to highest."""
    low, high = (f"{value:.1f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def _licences(index: Index) -> list[str]:
    lines = ["## Licences\n"]
    for kind, title in (("code", "Code"), ("weights", "Initial weights"), ("data", "Data")):
        lines += [f"- {title}, `{name}`: {text}." for name, text in index.licences[kind].items()]
    return lines
