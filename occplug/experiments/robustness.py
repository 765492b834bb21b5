"""How much models lose as their queries are covered more and more: the same pictures for each, the gallery as it is."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate

import occplug
from occplug.data.manager import DataManager
from occplug.errors import ConfigError, DataError
from occplug.evaluation import PairedDifference, evaluate_embeddings, paired_bootstrap
from occplug.experiments.tables import beside
from occplug.occluders.covering import Cover
from occplug.runs.candidates import Candidate, engine_of
from occplug.runs.session import describe_protocol
from occplug.utils.files import write_atomically
from occplug.utils.measuring import machine

__all__ = ["Curve", "Robustness", "measure"]

log = logging.getLogger(__name__)

FIGURES = {"ap": "mAP", "rank1": "Rank-1"}
WHOLE = "query_holistic"  # where a data set has its queries without occluders, as SynthOcc


@dataclass(frozen=True)
class Curve:
    """One model, or several seeds of one: values of S shares and Q covered queries, means over its `seeds`.

    Args:
        ap, rank1: [S, Q] in [0, 1]; nan for a query without a match.
    """

    title: str
    seeds: int
    protocol: str
    ap: np.ndarray
    rank1: np.ndarray

    def area(self, shares: Sequence[float], figure: str) -> np.ndarray:
        """[Q] area under each query's curve, divided by the range of shares: its mean over them."""
        values = getattr(self, figure)
        return np.trapezoid(values, shares, axis=0) / (shares[-1] - shares[0])


@dataclass(frozen=True)
class Robustness:
    """What `measure` found.

    Args:
        shares: S covered shares of the picture, ascending, 0 among them.
        pids: [Q]; a query that is covered in several ways is there several times, all queries of a way together.
        sides: [Q] from which each was covered.
        about: what was done, in a line.
        seeds: of the ways in which queries are covered.
    """

    curves: list[Curve]
    shares: list[float]
    pids: np.ndarray
    sides: np.ndarray
    about: str
    seeds: Sequence[int] = (1,)

    def interval(self, values: np.ndarray, base: np.ndarray | None = None) -> PairedDifference:
        """Mean of `values` [Q] (less those of `base`), with its 95 % bootstrap interval over persons."""
        nothing = np.where(np.isnan(values), np.nan, 0.0) if base is None else base
        return paired_bootstrap(values, nothing, self.pids)

    def by_seed(self, curve: Curve, figure: str) -> list[float]:
        """Mean area of each way of covering, in the order of `seeds`."""
        return [float(np.nanmean(part)) for part in np.split(curve.area(self.shares, figure), len(self.seeds))]

    def as_json(self) -> dict:
        """All figures, as fractions."""
        models = [
            {
                "title": curve.title,
                "seeds": curve.seeds,
                "protocol": curve.protocol,
                **{
                    name: {
                        "curve": [asdict(self.interval(row)) for row in getattr(curve, key)],
                        "area": asdict(self.interval(curve.area(self.shares, key))),
                        "area_by_seed": self.by_seed(curve, key),
                        "area_by_side": {
                            side: float(np.nanmean(curve.area(self.shares, key)[self.sides == side]))
                            for side in np.unique(self.sides).tolist()
                        },
                    }
                    for key, name in FIGURES.items()
                },
            }
            for curve in self.curves
        ]
        about: dict[str, object] = {"about": self.about, "version": occplug.__version__, "shares": self.shares}
        about |= {"seeds": list(self.seeds), "queries": len(self.pids) // len(self.seeds)}
        return {**about, "models": models, "losses": self._losses_as_json()}

    def _losses_as_json(self) -> list[dict]:
        return [
            {"title": title, "less": base, "figure": FIGURES[key], "share": share, **asdict(found)}
            for title, base, key, share, found in self.losses()
        ]

    def losses(self) -> list[tuple[str, str, str, float, PairedDifference]]:
        """For each model but the first, figure and share above 0: what it loses from share 0 on, less what the first
        does; below 0 where it loses less.
        """
        first, found = self.curves[0], []
        for curve in self.curves[1:]:
            for key in FIGURES:
                ours, base = getattr(curve, key), getattr(first, key)
                for place, share in enumerate(self.shares[1:], 1):
                    each = self.interval(ours[0] - ours[place], base[0] - base[place])
                    found.append((curve.title, first.title, key, share, each))
        return found

    def markdown(self) -> str:
        """A table a figure, and one of losses beside the first model."""
        parts = []
        for key, name in FIGURES.items():
            heads = [f"{name} (%)", *(f"{share:.0%}" for share in self.shares), "area [95 %]"]
            heads += ["by seed"] if len(self.seeds) > 1 else []
            lines = []
            for curve in self.curves:
                area = self.interval(curve.area(self.shares, key))
                values = [f"{100 * np.nanmean(row):.1f}" for row in getattr(curve, key)]
                title = curve.title if curve.seeds == 1 else f"{curve.title} ({curve.seeds} seeds)"
                span = f"{100 * area.difference:.1f} [{100 * area.low:.1f}, {100 * area.high:.1f}]"
                seeds = " / ".join(f"{100 * area:.1f}" for area in self.by_seed(curve, key))
                lines.append([title, *values, span, *([seeds] if len(self.seeds) > 1 else [])])
            parts.append(tabulate(lines, heads, tablefmt="github", disable_numparse=True))
        if len(self.curves) > 1:
            parts.append(self._losses_table())
        return "\n\n".join([*parts, self.about])

    def _losses_table(self) -> str:
        first = self.curves[0].title
        heads = [f"loss of mAP less that of {first}", *(f"{share:.0%}" for share in self.shares[1:])]
        lines = {curve.title: [curve.title] for curve in self.curves[1:]}
        for title, _, key, _, each in self.losses():
            if key == "ap":
                mark = "" if each.low <= 0 <= each.high else " *"
                lines[title].append(f"{100 * each.difference:+.1f}{mark}")
        table = tabulate(list(lines.values()), heads, tablefmt="github", disable_numparse=True)
        return f"{table}\n\n`*`: the 95 % interval leaves 0 out; each alone, not corrected for their number"

    def document(self, figure: Path, page: Path, command: str) -> str:
        """What stands in the document `page`: the picture `figure`, the tables, and how they were made."""
        made = f"per cent; {machine(with_load=False)}; {time.strftime('%Y-%m-%d')}; `{command}`"
        return f"![robustness]({beside(figure, page)})\n\n{self.markdown()}  \n{made}"

    def write(self, folder: Path) -> Path:
        """Write `robustness.json` and `robustness.md` into `folder`, which is returned."""
        content = json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n"
        for name, text in (("robustness.json", content), ("robustness.md", self.markdown() + "\n")):
            write_atomically(folder / name, partial(Path.write_text, data=text, encoding="utf-8"))
        return folder


def measure(
    found: list[Candidate],
    titles: list[str],
    covers: list[Cover],
    target: str = "",
    limit: int = 0,
    seeds: Sequence[int] = (1,),
) -> Robustness:
    """Embed and rank the queries of `target` under each of `covers`, with each model.

    Args:
        titles: one a model; models of one title are seeds of one row.
        covers: of one library, kinds and sides, with ascending shares from 0 on.
        target: data set; by default the first target of the first config.
        limit: evenly spaced queries to take; 0: all.
        seeds: of the covers; every query is covered once for each, in place of the seed of `covers`.

    Raises:
        ConfigError: a target that a config does not have, no seed or one twice, or shares that do not ascend from 0.
        DataError: configs that give other images.
        CheckpointError: weights that do not fit their config.
    """
    shares = [cover.share for cover in covers]
    if len(shares) < 2 or shares[0] != 0 or shares != sorted(set(shares)):
        raise ConfigError(f"shares ascend from 0, two at least; got {', '.join(f'{share:g}' for share in shares)}")
    if not seeds or len(set(seeds)) != len(seeds):
        raise ConfigError(f"seeds are one or more, each once; got {', '.join(map(str, seeds)) or 'none'}")
    series = [[replace(cover, seed=seed) for cover in covers] for seed in seeds]
    target = target or found[0].cfg.data.targets[0]
    results: dict[str, list[tuple]] = {}
    known = None
    for candidate, title in zip(found, titles):
        if target not in candidate.cfg.data.targets:
            raise ConfigError(f"{title} has the targets {', '.join(candidate.cfg.data.targets)}, not {target!r}")
        items, pids, values, protocol = _of_model(candidate, title, series, target, limit)
        if known is not None and known != items:
            raise DataError(f"{title} has other queries of {target} than {titles[0]}; give all models one --root")
        known = items
        results.setdefault(title, []).append((values, protocol))
        log.info("%s: mAP %s", title, ", ".join(f"{100 * np.nanmean(row):.1f}" for row in values[0]))
    curves = [
        Curve(title, len(runs), runs[0][1], *np.mean([values for values, _ in runs], axis=0))
        for title, runs in results.items()
    ]
    assert known is not None
    cover = covers[-1]
    kinds = ", ".join(cover.kinds) or "all kinds"
    about = (
        f"{len(known)} queries of {target}, covered from {', '.join(cover.sides)} by cut-outs of {kinds} "
        f"({len(cover.library)}, {'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}); gallery as it "
        "is; area: mean over the shares; intervals: bootstrap over persons, with the weights as they are"
    )
    sides = [cover.choice(Path(item).name)[1] for *_, cover in series for item in known]
    return Robustness(curves, shares, np.tile(pids, len(seeds)), np.array(sides), about, list(seeds))


def _of_model(candidate: Candidate, title: str, series: list[list[Cover]], target: str, limit: int):
    """Query files, pids [Q], values [2, S, K Q] of average precision and Rank-1 for K series, and the protocol line."""
    cfg = candidate.cfg
    data = DataManager(cfg, trains=False)
    device = torch.device("cuda" if cfg.use_gpu and torch.cuda.is_available() else "cpu")
    queries = list(getattr(data.sets[target], WHOLE, None) or data.sets[target].query)
    if limit and limit < len(queries):
        queries = [queries[n] for n in np.linspace(0, len(queries) - 1, limit).round().astype(int)]
    with tempfile.TemporaryDirectory() as folder:
        engine = engine_of(candidate, data, Path(folder), device)
        gallery, g_pids, g_camids, _ = engine.extracted(
            data.test_loader[target]["gallery"], target, f"{title}: gallery"
        )

        def values_under(cover: Cover):
            loader = data.loader_of(queries, read=cover.read)
            side = f"queries covered by {cover.share:.0%}, seed {cover.seed}"
            query, q_pids, q_camids, paths = engine.extracted(loader, target, f"{title}: {side}")
            row = evaluate_embeddings(engine.distance, query, gallery, q_pids, g_pids, q_camids, g_camids)
            return [row.ap, np.where(row.first_hit > 0, row.first_hit == 1, np.nan)], q_pids, paths

        whole, pids, paths = values_under(series[0][0])  # nothing is covered, so it is the same in all series
        values = [[whole, *(values_under(cover)[0] for cover in covers[1:])] for covers in series]  # [K, S, 2, Q]
        protocol = describe_protocol(cfg, camera_rows=engine.camera_rows, data=data, metric=candidate.weights.metric)
    data.close()
    return paths, pids, np.concatenate(np.array(values), axis=2).swapaxes(0, 1), protocol
