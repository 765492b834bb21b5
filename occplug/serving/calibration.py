"""What a distance means: the probability that two images show the same person, and how often strangers are as near.

Fitted on pairs of images of identities that the model was not trained on. Where a method says which parts are visible,
pairs are grouped by how much they have in common: the same distance means less when little is visible in both.
Probabilities are for a prior of one half; `probability(..., prior)` moves the odds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occplug.embedding import Embedding
from occplug.errors import CheckpointError, ConfigError, DataError

__all__ = ["KINDS", "Calibration", "Pairs", "answers_to", "calibrate", "common_visibility", "pairs_of"]

KINDS = ("logistic", "isotonic")
LEVELS, FEWEST = 3, 50  # of common visibility, and same pairs that each needs
FARS = (0.1, 0.01, 0.001, 0.0001)  # of the table
BINS = 10  # of the reliability diagram
STRANGERS = 200_000  # pairs of different identities that are kept
_EDGE = 1e-6


def _is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_numbers(value) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _is_curve(value) -> bool:
    """Whether it is a curve that falls with the distance."""
    if not isinstance(value, dict):
        return False
    if value.keys() == {"slope", "shift"}:
        return all(map(_is_number, value.values())) and value["slope"] < 0
    points = value.keys() == {"x", "y"} and all(map(_are_numbers, value.values()))
    return points and 0 < len(value["x"]) == len(value["y"]) and value["y"][0] > value["y"][-1]


# part of a calibration in a file -> whether a value can be it
_PARTS: dict[str, Callable[[Any], bool]] = {
    "kind": KINDS.__contains__,
    "edges": _are_numbers,
    "curves": lambda value: isinstance(value, list) and all(map(_is_curve, value)),
    "strangers": lambda value: _are_numbers(value) and len(value) > 0,
    "shares": _are_numbers,
    "floor": _is_number,
    "facts": lambda value: isinstance(value, dict) and isinstance(value.get("settings", {}), dict),
}


def common_visibility(query: Embedding, gallery: Embedding, floor: float = 0.1) -> np.ndarray | None:
    """[Q, G] how much of the body both images show: the mean over the parts of the product of their visibilities.

    Visibilities below `floor` count as 0, as in the part distance. None without visibilities.
    """
    if query.visibility is None or gallery.visibility is None:
        return None
    one, other = (torch.where(v < floor, 0.0, v.float()) for v in (query.visibility, gallery.visibility))
    return (one @ other.T / one.shape[1]).cpu().numpy()


@dataclass
class Pairs:
    """N pairs of images: distance, whether of the same person, common visibility (None: not known), both identities."""

    distance: np.ndarray
    same: np.ndarray
    common: np.ndarray | None
    identities: np.ndarray  # [N, 2]

    def __getitem__(self, chosen) -> Pairs:
        common = None if self.common is None else self.common[chosen]
        return Pairs(self.distance[chosen], self.same[chosen], common, self.identities[chosen])

    def __len__(self) -> int:
        return len(self.distance)

    @property
    def blind(self) -> np.ndarray:
        """[N] bool: nothing of the body is visible in both."""
        return np.zeros(len(self), bool) if self.common is None else self.common <= 0


def pairs_of(
    embedding: Embedding,
    pids: np.ndarray,
    camids: np.ndarray | None,
    distance: Callable[[Embedding, Embedding], Tensor],
    floor: float = 0.1,
    seed: int = 0,
    others: Embedding | None = None,
) -> Pairs:
    """All pairs of the same person from different cameras (from any, if `camids` is None), and many of different ones.

    Args:
        others: the same images in another state, which the second of each pair is taken from; by default as they are.

    Raises:
        DataError: fewer than two identities, or none has two images.
    """
    blocks, rng, gallery = [], np.random.default_rng(seed), embedding if others is None else others
    share = min(1.0, STRANGERS / max(len(pids) ** 2, 1))
    for start in range(0, len(pids), 256):
        rows = np.arange(start, min(start + 256, len(pids)))
        part = embedding[rows.tolist()]
        distances = distance(part, gallery).float().cpu().numpy()
        common = common_visibility(part, gallery, floor)
        same = pids[rows][:, None] == pids[None]
        apart = np.ones_like(same) if camids is None else camids[rows][:, None] != camids[None]
        another = rows[:, None] != np.arange(len(pids))[None]
        chosen = (same & apart & another) | (~same & (rng.random(same.shape) < share))
        at = np.nonzero(chosen)
        both = np.stack([pids[rows][at[0]], pids[at[1]]], axis=1)
        blocks.append(Pairs(distances[at], same[at], None if common is None else common[at], both))
    if not blocks or not any(each.same.any() for each in blocks) or all(each.same.all() for each in blocks):
        raise DataError(
            "there are no pairs to calibrate on: several identities are needed, each with images from two cameras (or "
            "two images, where cameras are not known)"
        )
    common = None if blocks[0].common is None else np.concatenate([each.common for each in blocks])
    distances, same, identities = (
        np.concatenate([getattr(each, name) for each in blocks]) for name in ("distance", "same", "identities")
    )
    return Pairs(distances, same, common, identities)


@dataclass(frozen=True)
class Calibration:
    """From distances to probabilities.

    Args:
        kind: "logistic" or "isotonic".
        edges: common visibility at which the next curve begins; none for one curve.
        curves: per level of common visibility, `x` and `y`: probabilities at distances (isotonic), or `slope` and
            `shift` of the log-odds (logistic).
        strangers: [K] distances of different identities, ascending, at the shares `shares` [K].
        floor: visibility below which a part counts as hidden.
        facts: on how many pairs of whom, and how well it does on identities it was not fitted on.
    """

    kind: str
    edges: list[float]
    curves: list[dict]
    strangers: list[float]
    shares: list[float]
    floor: float = 0.1
    facts: dict = field(default_factory=dict)

    def probability(self, distance, common=None, prior: float = 0.5) -> np.ndarray:
        """P(same person) [N] of `distance` [N] at common visibilities `common` [N]; nan where nothing is in common."""
        distance = np.asarray(distance, np.float64)
        level = np.zeros(distance.shape, int)
        if common is not None and self.edges:
            level = np.searchsorted(self.edges, common, "right")
        odds = np.zeros(distance.shape)
        for number, curve in enumerate(self.curves):
            at = level == number
            odds[at] = _log_odds(curve, distance[at])
        odds += np.log(prior / (1 - prior))
        result = 1 / (1 + np.exp(-odds))
        return result if common is None else np.where(np.asarray(common) <= 0, np.nan, result)

    def false_accept_rate(self, distance) -> np.ndarray:
        """Share of pairs of different identities that are as near as `distance` [N]: of n pairs at least 1/n, which
        stands for less where none is as near."""
        return np.interp(np.asarray(distance, np.float64), self.strangers, self.shares, right=1.0)

    def threshold(self, rate: float) -> float:
        """The distance up to which `rate` of the pairs of different identities lie."""
        return float(np.interp(rate, self.shares, self.strangers))

    @property
    def flip(self) -> bool | None:
        """Whether its images were averaged with mirrored ones; None: it does not say."""
        flip = self.facts.get("flip")
        return flip if isinstance(flip, bool) else None

    @property
    def of_images(self) -> str:
        """What `flip` is, in words."""
        how = "averaged with mirrored ones" if self.flip else "as they are, not mirrored"
        return f"these weights were calibrated on images {how}"

    def check_flip(self, flip: bool | None) -> None:
        """Raise ConfigError if images were embedded with `flip`, and those of the calibration otherwise."""
        if None not in (flip, self.flip) and flip != self.flip:
            raise ConfigError(
                f"{self.of_images}, and these are not, so distances mean something else; give flip={self.flip}, or "
                "calibrate again"
            )

    def as_dict(self) -> dict:
        """Plain values, for files."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def of_dict(cls, content, where: str = "a calibration") -> Calibration:
        """What `as_dict` gave, checked.

        Args:
            where: the weights it was kept with, for the message.

        Raises:
            CheckpointError: a part is missing, unknown or of another kind; names it.
        """
        known = content if isinstance(content, dict) else {}
        wrong = [name for name in known if name not in _PARTS or not _PARTS[name](known[name])]
        wrong += [name for name in _PARTS if name not in known and name not in ("floor", "facts")]
        if not wrong and len(known["curves"]) != len(known["edges"]) + 1:
            wrong = ["curves"]  # one a level
        if not wrong and len(known["strangers"]) != len(known["shares"]):
            wrong = ["shares"]
        if wrong:
            raise CheckpointError(
                f"{where}: its calibration is damaged or of another version ({', '.join(map(str, wrong))}); run "
                "occplug calibrate again"
            )
        return cls(**known)


def _log_odds(curve: dict, distance: np.ndarray) -> np.ndarray:
    if "slope" in curve:
        return curve["slope"] * distance + curve["shift"]
    p = np.interp(distance, curve["x"], curve["y"]).clip(_EDGE, 1 - _EDGE)
    return np.log(p / (1 - p))


def calibrate(pairs: Pairs, kind: str = "logistic", floor: float = 0.1) -> Calibration:
    """Fit `kind` on `pairs`; `facts` say how fits on half of the identities do on the other half.

    Raises:
        DataError: no pair has anything in common, or pairs of the same person are not nearer than others.
    """
    visible = pairs[~pairs.blind]
    if len(visible) == 0 or not visible.same.any() or visible.same.all():
        raise DataError("no pair of the same person has a part in common that both images show")
    made = _fit(visible, kind, floor)
    if not all(map(_is_curve, made.curves)):
        raise DataError(
            "these distances tell nobody apart: pairs of the same person are not nearer than strangers (where equally "
            "much is visible); give more identities with -s, or check that the weights are trained and the images' "
            "identities right"
        )
    return Calibration(**{**made.as_dict(), "facts": _facts(pairs, kind, floor, made)})


def _fit(pairs: Pairs, kind: str, floor: float) -> Calibration:
    edges = _edges(pairs)
    level = np.zeros(len(pairs), int)
    if edges:
        assert pairs.common is not None  # edges are quantiles of it
        level = np.searchsorted(edges, pairs.common, "right")
    curves = [_curve(pairs[level == number], kind) for number in range(len(edges) + 1)]
    strangers = np.sort(pairs.distance[~pairs.same])
    count = len(strangers)
    # all of the near ones, which decide about low rates, and some of the others
    places = np.unique(np.concatenate([np.arange(min(count, 200)), np.linspace(0, count - 1, 400).astype(int)]))
    shares = ((places + 1) / count).tolist()
    return Calibration(kind, edges, curves, strangers[places].astype(float).tolist(), shares, floor)


def _edges(pairs: Pairs) -> list[float]:
    """Where levels of common visibility begin, so that each has enough same pairs; none if they all are alike."""
    if pairs.common is None:
        return []
    common = pairs.common[pairs.same]
    levels = min(LEVELS, len(common) // FEWEST)
    quantiles = np.quantile(common, np.arange(1, levels) / levels) if levels > 1 else np.zeros(0)
    edges = sorted({float(edge) for edge in quantiles if edge > common.min()})
    level = np.searchsorted(edges, pairs.common, "right")
    full = all(pairs.same[level == n].any() and not pairs.same[level == n].all() for n in range(len(edges) + 1))
    return edges if full else []


def _curve(pairs: Pairs, kind: str) -> dict:
    weight = _balanced(pairs.same)
    if kind == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        fit = IsotonicRegression(y_min=0, y_max=1, increasing=False, out_of_bounds="clip")
        fit.fit(pairs.distance, pairs.same.astype(float), sample_weight=weight)
        return {"x": fit.X_thresholds_.astype(float).tolist(), "y": fit.y_thresholds_.astype(float).tolist()}
    from sklearn.linear_model import LogisticRegression

    spread = max(float(pairs.distance.std()), 1e-12)
    fit = LogisticRegression(C=1e3).fit(pairs.distance[:, None] / spread, pairs.same, sample_weight=weight)
    return {"slope": float(fit.coef_[0, 0]) / spread, "shift": float(fit.intercept_[0])}


def _balanced(same: np.ndarray) -> np.ndarray:
    """Weights under which half of the pairs are of the same person."""
    share = same.mean().clip(1e-12, 1 - 1e-12)
    return np.where(same, 0.5 / share, 0.5 / (1 - share))


# ---------------------------------------------------------------------- how well it does


def _facts(pairs: Pairs, kind: str, floor: float, made: Calibration) -> dict:
    """Figures of fits on half of the identities, tested on pairs of the other half alone."""
    facts: dict[str, Any] = {
        "identities": len(np.unique(pairs.identities)),
        "same_pairs": int(pairs.same.sum()),
        "different_pairs": int((~pairs.same).sum()),
        "abstains": float(_balanced(pairs.same)[pairs.blind].sum() / _balanced(pairs.same).sum()),
        "wrong_if_it_did_not": None,
        **_rates(pairs, made),
    }
    tested, predicted = _unseen_answers(pairs, pairs, kind, floor)
    if len(tested):
        facts |= _answers(tested, predicted) | _reliability(predicted[~tested.blind], tested.same[~tested.blind])
        facts |= {"abstains": facts["abstains"], "levels": _levels(tested, predicted, made.edges)}
    return facts


def _rates(pairs: Pairs, made: Calibration) -> dict[str, Any]:
    """`rates`: false accept rate, distance, share of the same pairs that are as near, as far as the strangers go; and
    what is `beyond`: nearer than all of them; None where every rate of the table is told."""
    told = [rate for rate in FARS if rate >= made.shares[0]]
    nearest, beyond = made.strangers[0], None
    if len(told) < len(FARS):
        accepted = _accepted(pairs, float(np.nextafter(nearest, -np.inf)))
        beyond = {"strangers": round(1 / made.shares[0]), "distance": nearest, "accepted": accepted}
    return {
        "rates": [[rate, made.threshold(rate), _accepted(pairs, made.threshold(rate))] for rate in told],
        "beyond": beyond,
    }


def answers_to(asked: Pairs, fitted: Pairs, kind: str = "logistic", floor: float = 0.1) -> dict[str, float | None]:
    """How fits on half of the identities of `fitted` answer pairs of the other half in `asked`, pairs of the same
    identities in another state.

    Returns: `ece`, `wrong` (share of wrong answers, where half of the pairs are of the same person), `abstains`,
        `wrong_if_it_did_not` (of the pairs it abstains on; None: there are none), `common` (median common visibility).
    Raises: DataError: there are too few identities.
    """
    tested, predicted = _unseen_answers(fitted, asked, kind, floor)
    if not len(tested) or tested.blind.all():
        raise DataError("there are too few identities to fit on half of them and to measure on the others")
    visible = ~tested.blind
    common = None if tested.common is None else float(np.median(tested.common))
    ece = _reliability(predicted[visible], tested.same[visible])["ece"]
    return {"ece": ece, **_answers(tested, predicted), "common": common}


def _unseen_answers(fitted: Pairs, asked: Pairs, kind: str, floor: float) -> tuple[Pairs, np.ndarray]:
    """Pairs of `asked` within either half of the identities, and their probabilities by a fit on the other half of
    `fitted`; pairs with nothing in common are answered by the lowest curve."""
    chosen = np.random.default_rng(0).permutation(np.unique(fitted.identities))[::2]

    def halves(pairs: Pairs) -> list[np.ndarray]:
        inside = np.isin(pairs.identities, chosen).sum(axis=1)
        return [inside == 2, inside == 0]

    at, predicted = np.zeros(len(asked), bool), np.zeros(len(asked))
    for known, other in zip(halves(fitted), halves(asked)[::-1]):
        train, visible = fitted[known & ~fitted.blind], asked[other & ~asked.blind]
        if not all(each.same.any() and not each.same.all() for each in (train, visible)):
            continue
        common = None if asked.common is None else np.maximum(asked.common[other], _EDGE)
        predicted[other] = _fit(train, kind, floor).probability(asked.distance[other], common)
        at |= other
    return asked[at], predicted[at]


def _answers(pairs: Pairs, predicted: np.ndarray) -> dict[str, float | None]:
    weight, wrong = _balanced(pairs.same), (predicted >= 0.5) != pairs.same

    def share(at: np.ndarray) -> float | None:
        return float((weight * wrong)[at].sum() / weight[at].sum()) if at.any() else None

    abstains = float(weight[pairs.blind].sum() / weight.sum())
    return {"wrong": share(~pairs.blind), "abstains": abstains, "wrong_if_it_did_not": share(pairs.blind)}


def _levels(pairs: Pairs, predicted: np.ndarray, edges: list[float]) -> list[dict]:
    """Per level of common visibility: where it begins, its share of the pairs that are answered, `ece` and `wrong`."""
    if not edges:
        return []
    assert pairs.common is not None  # edges are quantiles of it
    level, rows = np.searchsorted(edges, pairs.common, "right"), []
    for number, begin in enumerate([0.0, *edges]):
        at = (level == number) & ~pairs.blind
        if pairs.same[at].any() and not pairs.same[at].all():
            ece, wrong = _reliability(predicted[at], pairs.same[at])["ece"], _answers(pairs[at], predicted[at])["wrong"]
            rows.append({"from": begin, "pairs": float(at.mean()), "ece": ece, "wrong": wrong})
    return rows


def _accepted(pairs: Pairs, threshold: float) -> float:
    return float((pairs.distance[pairs.same & ~pairs.blind] <= threshold).mean())


def _reliability(predicted: np.ndarray, same: np.ndarray) -> dict:
    """`ece`, the expected calibration error, and per bin of probability: mean prediction, share that was the same,
    weight of the bin."""
    weight = _balanced(same)
    bins = np.minimum((predicted * BINS).astype(int), BINS - 1)
    rows = []
    for number in range(BINS):
        at = bins == number
        if at.any():
            w = weight[at]
            rows.append(
                [float((predicted[at] * w).sum() / w.sum()), float(w[same[at]].sum() / w.sum()), float(w.sum())]
            )
    total = sum(row[2] for row in rows)
    rows = [[p, share, w / total] for p, share, w in rows]
    return {"ece": sum(abs(p - share) * w for p, share, w in rows), "reliability": rows}
