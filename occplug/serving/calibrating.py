"""From weights and data to a calibration: whose images may be used, and what comes of them."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
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
from occplug.serving.known import WORLD, Known, known_of

__all__ = ["IDENTITIES", "as_markdown", "calibrate_model", "draw_reliability", "rates_of", "unseen_images"]

_log = logging.getLogger(__name__)
IDENTITIES = ("unseen", "trained")
MOST = 6000  # images
FEW = 50  # identities: with fewer, other ones would give other figures


def unseen_images(model: Extractor, root: str, sources: list[str], identities: str = "unseen") -> tuple[list, str]:
    """Rows (path, identity, camera) of images of identities that the model was neither trained nor tested on, as far as
    its weights tell, and a text that says whose they are and how many identities were left out.

    Of a set that says which side each image is on, they are its training images; of one that does not, all images.

    Args:
        sources: names of data sets; the model's own sources if empty.
        identities: "unseen", or "trained" to take what the model was trained on, too, which makes it look better than
            it is.

    Raises:
        ConfigError: there are none, or the weights do not say whom they were trained on.
    """
    cfg = model.cfg.clone()
    cfg.defrost()
    sources_of_run = list(cfg.data.sources)
    cfg.data.root, cfg.data.sources = root, sources or sources_of_run
    cfg.data.targets, cfg.data.combineall = [], False  # the test side is not read, and need not be there
    cfg.ensemble.held_out = 0.0  # those left out of training are wanted here
    known, takes_trained = known_of(model.weights, root), identities == "trained"
    if not takes_trained:
        _check_told(model, known, cfg, sources_of_run)
    data = DataManager(cfg, trains=False, sources=True)
    rows: list[tuple[str, int, int]] = []
    counts: Counter = Counter()
    for name in cfg.data.sources:
        kept, met = _strangers(_people(data.sets[name]), known, takes_trained)
        first = 1 + max((pid for _, pid, _ in rows), default=-1)
        rows += [(path, first + pid, camid) for path, pid, camid in kept]
        counts.update(met)
    if not rows:
        raise ConfigError(_nobody(cfg.data.sources, counts))
    whose = _whose(known, [row[0] for row in rows], takes_trained)
    step = max(1, -(-len(rows) // MOST))
    some = {pid for number, pid in enumerate(sorted({pid for _, pid, _ in rows})) if number % step == 0}
    told = {"trained": "it was trained on", "tested": "of its test"}
    left_out = " and ".join(f"{counts[key]} {what}" for key, what in told.items() if counts[key])
    names = ", ".join(cfg.data.sources) + (f"; left out: {left_out}" if left_out else "")
    return [row for row in rows if row[1] in some], f"{whose}, {names}"


def _check_told(model: Extractor, known: Known, cfg, sources_of_run: list[str]) -> None:
    """Raise ConfigError where it is clear without the images that none can be used; nothing is rendered for that."""
    names, world = list(cfg.data.sources), cfg.synthocc
    untold = [name for name in names if name in sources_of_run]
    if untold and (model.weights is None or model.weights.pids is None):
        raise ConfigError(
            f"the weights do not say which identities of {', '.join(untold)} they were trained on; give another data "
            "set with -s"
        )
    if set(names) == {WORLD} and known.has_all_of(world.size, world.seed):
        raise ConfigError(_nobody(names, Counter(trained=1)))


def _people(held) -> list[list[tuple[str, int]]]:
    """(path, camera) of the images of each identity of the data set `held`, by its number."""
    people: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for path, label, camid, *_ in held.train:
        people[held.pids[label]].append((path, camid))
    if not getattr(held, "tells_sides", True):  # only a draw made the others a test
        for path, pid, camid, *_ in [*held.query, *held.gallery]:
            people[pid].append((path, max(camid, 0)))  # unknown cameras are negative there
    return [people[pid] for pid in sorted(people)]


def _strangers(
    people: list[list[tuple[str, int]]], known: Known, takes_trained: bool
) -> tuple[list[tuple[str, int, int]], dict[str, int]]:
    """Rows of those of `people` who are not the model's, numbered by their places, and how many were left out."""
    rows, left_out = [], {"trained": 0, "tested": 0}
    for number, images in enumerate(people):
        sides = {known.side_of(path) for path, _ in images}
        if "train" in sides and not takes_trained:
            left_out["trained"] += 1
        elif "test" in sides:
            left_out["tested"] += 1
        else:
            rows += [(path, number, camid) for path, camid in images]
    return rows, left_out


def _whose(known: Known, paths: list[str], takes_trained: bool) -> str:
    if takes_trained:
        return "identities it was trained on: optimistic"
    if known.tells_of(paths):
        return "identities held out of training"
    _log.warning(
        "the weights do not say which images they were trained on, and the data sets of their config are not below "
        "--root, so it is not known whether these identities are among them"
    )
    return "identities, not known whether it was trained on them"


def _nobody(names: list[str], left_out: Counter) -> str:
    """Why no identity of the sets `names` can be used, and the cure."""
    train, test = left_out["trained"], left_out["tested"]
    what = "were trained on" if not test else "are of the test" if not train else "were trained on, or are of the test"
    cure = "give another data set with -s"
    if train:
        cure = f"train with ensemble.held_out 0.1, {cure}, or accept the optimism with --identities trained"
    problem = f"all identities of {', '.join(names)} {what}"
    return f"{problem}, and distances between those look better than between strangers; {cure}"


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
    model.embed([], **{**options, "camids": None})  # a wrong option is refused before anything is read, or rendered
    covers = [Cover(read_library(), share, max(covered)) for share in sorted(covered)]
    rows, whose = unseen_images(model, root, list(sources or []), identities)
    embedding = model.embed([row[0] for row in rows], **_with_cameras(options, rows, not sources))
    for reason in embedding.skipped.values():
        _log.warning("skipped: %s", reason)
    rows = [row for row in rows if row[0] not in embedding.skipped]
    pids, camids = (np.array([row[column] for row in rows]) for column in (1, 2))
    paths, options = [row[0] for row in rows], _with_cameras(options, rows, not sources)
    metric = model.method.named_distance()
    floor = metric.options.get("vis_floor", 0.1) if metric else 0.1
    people = (pids, camids if len(set(camids.tolist())) > 1 else None, model.distances, floor)
    pairs = pairs_of(embedding, *people)
    made = calibrate(pairs, kind, floor)
    if made.facts["identities"] < FEW:
        _log.warning(
            "calibrated on %d identities; with fewer than %d, others would give other figures: give more with -s",
            made.facts["identities"], FEW,
        )  # fmt: skip
    made.facts["covered"] = []
    for cover in covers:
        asked = pairs_of(model.embed(map(cover.read, paths), **options), *people, others=embedding)
        made.facts["covered"].append({"share": cover.share, **answers_to(asked, pairs, kind, floor)})
    assert embedding.origin is not None  # `Extractor.embed` says it
    made.facts.update(whose=whose, images=len(rows), flip=embedding.origin.preprocessing["flip"])
    made.facts["settings"] = model.test_settings
    return made


def _with_cameras(options: dict, rows: list, are_learnt: bool) -> dict:
    """`options` of `embed`, with the cameras of `rows` where those are cameras of the training and none are given."""
    return {"camids": [camid for *_, camid in rows] if are_learnt else None, **options}


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
    rates = [[rate, f"{distance:.4f}", _percent(accepted)] for rate, distance, accepted in rates_of(facts)]
    heads = ["false accept rate", "distance up to", "true accept rate"]
    right = tabulate(rates, heads, tablefmt="github", disable_numparse=True, colalign=("right",) * 3)
    bins = [[f"{p:.3f}", f"{share:.3f}", _percent(weight)] for p, share, weight in facts.get("reliability", [])]
    heads = ["probability given", "share that was the same person", "of the pairs"]
    shown = tabulate(bins, heads, tablefmt="github", disable_numparse=True, colalign=("right",) * 3) if bins else ""
    made = f"occplug {occplug.__version__}, {time.strftime('%Y-%m-%d')}"
    parts = [f"`{command}` ({made})", table, right, shown, _levels_table(facts), _covered_table(facts)]
    return "\n\n".join(filter(None, parts))


def rates_of(facts: dict) -> list[tuple[str, float, float]]:
    """False accept rate as text, the distance up to which it is so, true accept rate; the last may be `< 1/n`."""
    rows = [(f"{rate:g}", distance, accepted) for rate, distance, accepted in facts["rates"]]
    beyond = facts.get("beyond")  # files of earlier versions do not say
    more = [(f"< 1/{beyond['strangers']}", beyond["distance"], beyond["accepted"])] if beyond else []
    return rows + more


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
