"""The nearest gallery images of every query, under the rule by which figures are made, for one or several models."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from occplug.data.manager import DataManager
from occplug.errors import ConfigError, DataError
from occplug.evaluation import Lister, RankResult, evaluate_embeddings
from occplug.runs.candidates import Candidate, engine_of
from occplug.utils.files import user_path

__all__ = ["Ranking", "check_same_images", "check_target", "choose_queries", "ranking_of", "rankings"]

PICKED = ("worst", "best", "random", "gain")


@dataclass(frozen=True)
class Ranking:
    """What one model ranks first.

    Args:
        title: of the model.
        query_paths, gallery_paths: files of Q queries and G gallery images.
        q_pids, g_pids: [Q], [G] identities.
        nearest: [Q, K] gallery images, nearest first; the query's identity under the query's camera is left out, and -1
            stands where the gallery has no more.
        distances: [Q, K] float32, infinite at -1.
        result: average precision and first match of every query.
    """

    title: str
    query_paths: list[str]
    gallery_paths: list[str]
    q_pids: np.ndarray
    g_pids: np.ndarray
    nearest: np.ndarray
    distances: np.ndarray
    result: RankResult


def rankings(candidates: list[Candidate], titles: list[str], target: str = "", top: int = 10) -> list[Ranking]:
    """One ranking a model, all of the same queries and gallery.

    Args:
        titles: one a model.
        target: data set to search; by default the first target of the first model's config.

    Raises:
        ConfigError: a target that a config does not have.
        DataError: the models' configs give other images.
        CheckpointError: weights that do not fit their config.
    """
    target = target or candidates[0].cfg.data.targets[0]
    ranked = [_ranking(candidate, title, target, top) for candidate, title in zip(candidates, titles)]
    check_same_images(ranked, target)
    return ranked


def check_same_images(ranked: list[Ranking], target: str) -> None:
    """Raise DataError for models whose data sets differ, so that their rows could not stand beside each other."""
    for other in ranked[1:]:
        if other.query_paths != ranked[0].query_paths or other.gallery_paths != ranked[0].gallery_paths:
            raise DataError(f"{other.title} and {ranked[0].title} rank other images of {target}; give both one --root")


def _ranking(candidate: Candidate, title: str, target: str, top: int) -> Ranking:
    cfg = candidate.cfg
    check_target(cfg, title, target)
    data = DataManager(cfg, trains=False)
    device = torch.device("cuda" if cfg.use_gpu and torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        ranking = ranking_of(engine_of(candidate, data, Path(folder), device), data, title, target, top)
    data.close()
    return ranking


def check_target(cfg, title: str, target: str) -> None:
    """Raise ConfigError if the model `title` is not tested on the data set `target`."""
    if target not in cfg.data.targets:
        raise ConfigError(f"{title} has the targets {', '.join(cfg.data.targets)}, not {target!r}; add -t {target}")


def ranking_of(engine, data: DataManager, title: str, target: str, top: int) -> Ranking:
    """The ranking of the model in `engine` of the images of `data`."""
    sides = {
        side: engine.extracted(loader, target, f"{title}: {side}") for side, loader in data.test_loader[target].items()
    }
    query, q_pids, q_camids, q_paths = sides["query"]
    gallery, g_pids, g_camids, g_paths = sides["gallery"]
    ids = (q_pids, g_pids, q_camids, g_camids)
    lister = Lister(*ids, top=top, grey=0)
    result = evaluate_embeddings(lister.watching(engine.distance), query, gallery, *ids)
    return Ranking(title, list(q_paths), list(g_paths), q_pids, g_pids, *lister.result(), result)


def choose_queries(words: list[str], ranked: list[Ranking]) -> list[int]:
    """The queries that `words` name, in their order, each once.

    Args:
        words: `worst:N` or `best:N` (lowest or highest average precision of the first model), `gain:N` (largest gain of
            the first model over the second), `random:N` (the same every time), or names of query files, with or
            without folder and ending.

    Raises:
        ConfigError: a word of another form, a gain with one model, or a name that no query or several queries have.
    """
    chosen: list[int] = []
    for word in words:
        kind, separator, number = word.partition(":")
        is_pick = kind in PICKED and bool(separator)
        chosen += _picked(kind, number, ranked) if is_pick else [_named(word, ranked[0].query_paths)]
    return list(dict.fromkeys(chosen))


def _picked(kind: str, number: str, ranked: list[Ranking]) -> list[int]:
    if not number.isdecimal() or int(number) < 1:
        raise ConfigError(f"--queries {kind}:{number}: give a number of queries from 1, e.g. {kind}:5")
    ap = ranked[0].result.ap
    valid = np.flatnonzero(~np.isnan(ap))
    if kind == "random":
        return np.random.default_rng(0).permutation(valid)[: int(number)].tolist()
    if kind == "gain" and len(ranked) < 2:
        raise ConfigError("--queries gain:N compares the first model with the second, and there is one; give two")
    key = {"worst": ap, "best": -ap}[kind] if kind != "gain" else ranked[1].result.ap - ap
    return valid[np.argsort(key[valid], kind="stable")][: int(number)].tolist()


def _named(word: str, paths: list[str]) -> int:
    wanted = str(user_path(word))
    fits = [i for i, path in enumerate(paths) if wanted in (path, Path(path).name, Path(path).stem)]
    if len(fits) != 1:
        count = "no query has" if not fits else f"{len(fits)} queries have"
        picks = ", ".join(f"{kind}:N" for kind in PICKED)
        raise ConfigError(f"--queries {word}: {count} that name; there are {picks} and names of files, e.g. {paths[0]}")
    return fits[0]
