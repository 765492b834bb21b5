"""Do an entry's figures still come out, and if not, what has changed?"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field

from scipy import stats

from occplug.zoo.exporting import public
from occplug.zoo.index import FIGURES, NOT_RECORDED, Entry, Made, Measured, Run

__all__ = ["CONFIDENCE", "QUERIES", "TOLERANCE", "Finding", "Spread", "compare", "spread_over_seeds"]

# How far a figure of the same weights may move, for fp16 storage and other processors' rounding: mAP by so much, and
# this many queries may pass a rank
TOLERANCE = 0.002
QUERIES = 3
CONFIDENCE = 0.99  # with which a figure of a new training lies within its tolerance if nothing has changed


@dataclass(frozen=True)
class Spread:
    """How much a figure moves from seed to seed: a standard deviation, and the degrees of freedom it is known with."""

    deviation: float
    freedom: int


def spread_over_seeds(entries: Iterable[Entry], data: str) -> dict[str, Spread]:
    """Per figure, the spread over seeds pooled over those of `entries` with several seeds on `data`.

    Three seeds say little about their own spread; those of several models together say more. Empty if there are none.
    """
    runs = [entry.ours.runs for entry in entries if entry.ours and entry.data == data and len(entry.ours.runs) > 1]
    freedom = sum(len(seeds) - 1 for seeds in runs)
    if not freedom:
        return {}
    squares = {
        key: sum((len(seeds) - 1) * statistics.variance([run.figures[key] for run in seeds]) for seeds in runs)
        for key in FIGURES
    }
    return {key: Spread((total / freedom) ** 0.5, freedom) for key, total in squares.items()}


@dataclass
class Finding:
    """The outcome of a replay.

    Args:
        figures: name -> (recorded, measured now, tolerance).
        causes: what differs, by kind (data, config, code, versions), each with its details.
        knows_config: the whole config of the recorded run is on record.
        trained: the replay is a new training.
        unknown_code: the recorded run does not say which code made it.
    """

    figures: dict[str, tuple[float, float, float]]
    causes: dict[str, str] = field(default_factory=dict)
    knows_config: bool = True
    trained: bool = False
    unknown_code: bool = False

    @property
    def passed(self) -> bool:
        """Whether all figures are within their tolerance."""
        return all(abs(now - recorded) <= allowed for recorded, now, allowed in self.figures.values())

    def lines(self) -> list[str]:
        """The outcome in words, figures in per cent."""
        lines = []
        for name, (recorded, now, allowed) in self.figures.items():
            verdict = "same" if abs(now - recorded) <= allowed else "DIFFERS"
            change = f"{100 * (now - recorded):+.2f}, tolerance {100 * allowed:.2f}"
            lines.append(f"{name}: recorded {100 * recorded:.2f}, now {100 * now:.2f} ({change}): {verdict}")
        lines += [f"not the same {kind}: {text}" for kind, text in self.causes.items()]
        return [*lines, self.verdict()]

    def verdict(self) -> str:
        """One sentence: passed, or what the difference is due to."""
        if self.passed:
            return "passed" + (", although other things differ, see above" if self.causes else "")
        for kind in ("data", "config"):
            if kind in self.causes:
                return f"failed: due to {kind}; make that the same first"
        if "code" in self.causes:
            return "failed: due to the code (or to numerics, if its changes do not touch what is computed)"
        numerics = "numerics (versions, processor)" + (", which a training amplifies" if self.trained else "")
        if not self.knows_config:
            return (
                "failed: data and code are the same; the run's config is on record only where it differed from its "
                f"file then, so it is due to a change of that file or to {numerics}"
            )
        data = "data (names and numbers of images; pixels are not compared)"
        same = f"{data} and config" if self.trained else f"weights, {data} and config"
        code = "the code was not recorded" if self.unknown_code else "the code is the same"
        return f"failed: {same} are the same, {code}, so it is due to {numerics} or to other pixels"


def compare(
    entry: Entry, run: Run, metrics: dict, cfg, before=None, retrained: dict[str, Spread] | None = None
) -> Finding:
    """What has become of the recorded `run` in a replay.

    Args:
        metrics: of the replay, as `metrics.json` has them.
        cfg: the replay's config, from the entry's file as it is today.
        before: the config that the run had, None where the entry has no file that tells.
        retrained: given if the replay is a new training, which is compared with the mean over the recorded seeds: how
            much figures move from seed to seed.
    """
    ours, record = entry.ours, metrics["record"]
    assert ours is not None, f"{entry.name} has no runs of ours to compare with"
    made = ours.made_of(run)
    now = metrics["targets"][entry.data]
    queries = ours.data[entry.data]["query"]
    if retrained is None:
        figures = {key: (run.figures[key], now[key], _rounding(key, queries)) for key in FIGURES}
    else:
        means = {key: statistics.mean(seed.figures[key] for seed in ours.runs) for key in FIGURES}
        figures = {key: (means[key], now[key], _training(ours, key, queries, retrained.get(key))) for key in FIGURES}
    candidates = {
        "data": _data(ours, metrics["data"]),
        "config": _config(ours, public(cfg), public(before or cfg), metrics["protocol"]),
        "code": _code(made, record),
        "versions": _versions(made, record),
    }
    causes = {kind: text for kind, text in candidates.items() if text}
    unknown = made.sources == made.revision == NOT_RECORDED
    return Finding(figures, causes, before is not None, retrained is not None, unknown)


def _rounding(key: str, queries: int) -> float:
    # half a query more, as figures are recorded with six digits
    return TOLERANCE if key == "mAP" else max(TOLERANCE, (QUERIES + 0.5) / queries)


def _training(ours: Measured, key: str, queries: int, spread: Spread | None) -> float:
    """Half the prediction interval of one new run about the mean of the recorded ones."""
    if spread is None:
        return _rounding(key, queries)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, spread.freedom)
    return max(_rounding(key, queries), quantile * spread.deviation * (1 + 1 / len(ours.runs)) ** 0.5)


def _data(ours: Measured, now: dict[str, dict]) -> str:
    lines = []
    for name, before in ours.data.items():
        if name not in now:
            continue  # a test reads no sources
        counts = [f"{key} {before[key]} then, {now[name][key]} now" for key in before if before[key] != now[name][key]]
        if counts:
            lines.append(f"{name}: {', '.join(counts)}")
    return "; ".join(lines)


def _config(ours: Measured, now: dict[str, object], before: dict[str, object], protocol: str) -> str:
    """Keys whose value is not what the run was made with."""
    lines = [f"{key} {value!r} then, {now.get(key)!r} now" for key, value in before.items() if now.get(key) != value]
    if protocol != ours.protocol:
        lines.append(f"protocol {ours.protocol!r} then, {protocol!r} now")
    return "; ".join(lines)


def _code(made: Made, record: dict) -> str:
    """Runs of early versions have no hash of the sources; of theirs the revision has to do, whatever it changed."""
    known = made.sources != NOT_RECORDED
    before, now = (made.sources, record["sources"]) if known else (made.revision, record["revision"])
    if before == NOT_RECORDED or (before == now and not now.endswith("+")):
        return ""
    change = f"revision {made.revision} then, {record['revision']} now (+: with changes)"
    return f"sources {before} then, {now} now; {change}" if known else change


def _versions(made: Made, record: dict) -> str:
    now = record["versions"]
    lines = [f"{name} {v} then, {now.get(name)} now" for name, v in made.versions.items() if now.get(name) != v]
    if made.machine not in (NOT_RECORDED, record["machine"]):
        lines.append(f"machine {made.machine} then, {record['machine']} now")
    return "; ".join(lines)
