"""From weights and data to a calibration: whose images may be used, and what comes of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate

import occplug
from occplug.data.manager import DataManager
from occplug.errors import ConfigError
from occplug.occluders import read_library
from occplug.occluders.covering import Cover
from occplug.serving.calibration import Calibration, answers_to, calibrate, pairs_of
from occplug.serving.extractor import Extractor

__all__ = ["IDENTITIES", "as_markdown", "calibrate_model", "draw_reliability", "unseen_images"]

_log = logging.getLogger(__name__)
IDENTITIES = ("unseen", "trained")
MOST = 6000  # images


def unseen_images(model: Extractor, root: str, sources: list[str], identities: str = "unseen") -> tuple[list, str]:
    """Rows (path, pid, camid) of training images of `sources` whose identities the model was not trained on, and a text
    that says whose they are. Test images are never among them.

    Args:
        sources: names of data sets; the model's own sources if empty.
        identities: "unseen", or "trained" to take what the model was trained on, which makes it look better than it is.

    Raises:
        ConfigError: there are none, or the weights do not say whom they were trained on.
    """
    cfg = model.cfg.clone()
    cfg.defrost()
    sources_of_run = list(cfg.data.sources)
    cfg.data.root, cfg.data.sources = root, sources or sources_of_run
    cfg.data.targets, cfg.data.combineall = [], False  # the test side is not read, and need not be there
    cfg.ensemble.held_out = 0.0  # those left out of training are wanted here
    data = DataManager(cfg, trains=False, sources=True)
    trained = None if model.weights is None or model.weights.pids is None else set(model.weights.pids)
    rows, offset = [], 0
    for name in cfg.data.sources:
        held = data.sets[name]
        known = trained if name in sources_of_run else set()
        if known is None and identities == "unseen":
            raise ConfigError(
                f"the weights do not say which identities of {name} they were trained on; give another data set with -s"
            )
        for path, label, camid, *_ in held.train:
            if identities == "trained" or held.pids[label] not in (known or set()):
                rows.append((path, offset + label, camid))
        offset += len(held.pids)
    if not rows:
        raise ConfigError(
            f"all identities of {', '.join(cfg.data.sources)} were trained on, and distances between them look better "
            "than between strangers; train with ensemble.held_out 0.1, give another data set with -s, or accept the "
            "optimism with --identities trained"
        )
    step = max(1, -(-len(rows) // MOST))
    kept = {pid for number, pid in enumerate(sorted({pid for _, pid, _ in rows})) if number % step == 0}
    whose = "identities it was trained on: optimistic" if identities == "trained" else "identities held out of training"
    return [row for row in rows if row[1] in kept], f"{whose}, {', '.join(cfg.data.sources)}"


def calibrate_model(
    model: Extractor,
    root: str,
    sources: list[str] | None = None,
    kind: str = "logistic",
    identities: str = "unseen",
    covered: Sequence[float] = (),
    **options,
) -> Calibration:
    """Calibrate `model` on training images of identities it was not trained on.

    Args:
        root, sources, identities: as :func:`unseen_images`.
        kind: "logistic" or "isotonic".
        covered: shares of a picture, each above 0 and below 1; facts also say how pairs are answered one of whose
            images is covered so far by a cut-out of the package's library.
        options: of `Extractor.embed`.

    Raises:
        ConfigError: nobody was held out, or a share that is none.   DataError: too few images.
    """
    covers = [Cover(read_library(), share, max(covered)) for share in sorted(covered)]
    rows, whose = unseen_images(model, root, list(sources or []), identities)
    pids, camids = (np.array([row[column] for row in rows]) for column in (1, 2))
    given = None if "camids" in options else camids.tolist() if not sources else None
    paths, options = [row[0] for row in rows], {"camids": given, **options}
    embedding = model.embed(paths, **options)
    metric = model.method.named_distance()
    floor = metric.options.get("vis_floor", 0.1) if metric else 0.1
    people = (pids, camids if len(set(camids.tolist())) > 1 else None, model.distances, floor)
    pairs = pairs_of(embedding, *people)
    made = calibrate(pairs, kind, floor)
    made.facts["covered"] = []
    for cover in covers:
        asked = pairs_of(model.embed(map(cover.read, paths), **options), *people, others=embedding)
        made.facts["covered"].append({"share": cover.share, **answers_to(asked, pairs, kind, floor)})
    assert embedding.origin is not None  # `Extractor.embed` says it
    made.facts.update(whose=whose, images=len(rows), flip=embedding.origin.preprocessing["flip"])
    made.facts["settings"] = model.test_settings
    return made


def as_markdown(facts: dict, command: str) -> str:
    """The figures of a calibration as a passage of a page, with the `command` that made them."""
    rows = [
        ["identities", f"{facts['identities']} ({facts['whose']}), {facts['images']:,} images"],
        ["pairs", f"{facts['same_pairs']:,} of the same person, {facts['different_pairs']:,} of different ones"],
        ["expected calibration error", f"{facts['ece']:.3f}" if "ece" in facts else "not measured: too few identities"],
        ["wrong answers", _percent(facts.get("wrong"))],
        ["abstains on", _percent(facts["abstains"])],
        ["wrong answers, had it not abstained", _percent(facts["wrong_if_it_did_not"])],
    ]
    table = tabulate(rows, ["", "on identities it was not fitted on"], tablefmt="github", disable_numparse=True)
    rates = [[f"{rate:g}", f"{distance:.4f}", _percent(accepted)] for rate, distance, accepted in facts["rates"]]
    heads = ["false accept rate", "distance up to", "true accept rate"]
    right = tabulate(rates, heads, tablefmt="github", disable_numparse=True, colalign=("right",) * 3)
    bins = [[f"{p:.3f}", f"{share:.3f}", _percent(weight)] for p, share, weight in facts.get("reliability", [])]
    heads = ["probability given", "share that was the same person", "of the pairs"]
    shown = tabulate(bins, heads, tablefmt="github", disable_numparse=True, colalign=("right",) * 3) if bins else ""
    made = f"occplug {occplug.__version__}, {time.strftime('%Y-%m-%d')}"
    parts = [f"`{command}` ({made})", table, right, shown, _levels_table(facts), _covered_table(facts)]
    return "\n\n".join(filter(None, parts))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _levels_table(facts: dict) -> str:
    """How pairs are answered that have little, some and much in common; empty where the model does not say."""
    levels = facts.get("levels", [])
    ends = [f"{each['from']:.3f}" for each in levels[1:]] + [""]
    rows = [
        [f"{each['from']:.3f} to {end}", _percent(each["pairs"]), f"{each['ece']:.3f}", _percent(each["wrong"])]
        for each, end in zip(levels, ends)
    ]
    heads = ["common visibility", "of the pairs", "expected calibration error", "wrong answers"]
    right = ("left", *("right",) * 3)
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True, colalign=right) if rows else ""


def _covered_table(facts: dict) -> str:
    """How pairs are answered one of whose images is covered further; empty where that was not asked for."""
    rows = [
        [
            f"{each['share']:.0%}",
            "-" if each["common"] is None else f"{each['common']:.3f}",
            f"{each['ece']:.3f}",
            *(_percent(each[name]) for name in ("wrong", "abstains", "wrong_if_it_did_not")),
        ]
        for each in facts.get("covered", [])
    ]
    heads = ["one image covered by", "common visibility, median", "expected calibration error", "wrong answers"]
    heads += ["abstains on", "wrong answers, had it not abstained"]
    right = ("right",) * len(heads)
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True, colalign=right) if rows else ""


def draw_reliability(made: Calibration, file: Path) -> None:
    """Write the reliability diagram, with how many pairs each point stands for, to the PNG `file`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
    rows = np.array(made.facts.get("reliability", []) or np.zeros((0, 3)))
    axis.scatter(rows[:, 0], rows[:, 1], s=10 + 400 * rows[:, 2])
    axis.plot(rows[:, 0], rows[:, 1], linewidth=1)
    axis.set(xlabel="probability that was given", ylabel="share that was the same person", xlim=(0, 1), ylim=(0, 1))
    axis.set_title(f"expected calibration error {made.facts.get('ece', float('nan')):.3f}", fontsize=9)
    figure.savefig(file, format="png", dpi=120)
