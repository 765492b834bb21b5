"""The test of several models whose distances are added (:mod:`occplug.evaluation.ensemble`)."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from occplug.data.manager import DataManager, held_out_labels
from occplug.errors import DataError
from occplug.evaluation import Ensemble, EnsembleEmbedding, choose_ensemble, evaluate_embeddings
from occplug.runs.candidates import Candidate, combined, engine_of
from occplug.runs.session import describe_protocol, prepare, write_metrics

__all__ = ["evaluate_ensemble"]

log = logging.getLogger(__name__)
SHARE = 0.2  # of the training identities, for the units of models that were trained on all of them


def evaluate_ensemble(models: list[Candidate]) -> dict:
    """Evaluate `models` as one; returns what `metrics.json` (in the first config's data.save_dir/test) holds.

    Weights are chosen on the training identities that `ensemble.held_out` left out of training, and on no others: if a
    model was trained on them, all weights are equal, and a warning says why.

    Raises:
        DataError: the configs have other training or test images.
        CheckpointError: weights that do not fit their config.
    """
    first = models[0].cfg
    folder, device = prepare(first, saves=False)
    managers = [DataManager(candidate.cfg, trains=False, sources=True) for candidate in models]
    _check_same_images(managers)
    engines = [engine_of(c, data, folder, device) for c, data in zip(models, managers)]
    distances = [engine.distance for engine in engines]
    identities, trained_on = _persons(models, managers[0])
    if trained_on:
        log.warning(
            "all weights are equal, since there are no training identities to choose them on: the training of %s "
            "had all of them, or is not on record; train the models with ensemble.held_out 0.1",
            " and ".join(trained_on),
        )
    images, pids, camids, _ = _extract(
        engines, managers, lambda data: data.persons_loader(identities), "training identities", ""
    )
    ensemble = choose_ensemble(distances, images, pids, camids, equal=bool(trained_on))
    log.info("ensemble: %s", _describe(ensemble, models))
    results, paths = {}, {}
    for target in managers[0].targets:
        query, q_pids, q_camids, paths[target] = _of_target(engines, managers, target, "query")
        gallery, g_pids, g_camids, _ = _of_target(engines, managers, target, "gallery")
        ids = (q_pids, g_pids, q_camids, g_camids)
        distance: Any = ensemble.distance(distances)  # of ensemble embeddings, as both sides are
        results[target] = evaluate_embeddings(distance, query, gallery, *ids)
        log.info("%s: %s", target, results[target])
    for data in managers:
        data.close()
    engine = SimpleNamespace(results=results, query_paths=paths, records=[], datamanager=managers[0])
    more = {
        "method": " + ".join(c.cfg.model.name for c in models),
        "ensemble": {**vars(ensemble), "persons": len(set(pids.tolist())), "seen_in_training": trained_on},
    }
    protocol = f"{_describe(ensemble, models)} of: " + " | ".join(
        describe_protocol(
            c.cfg, camera_rows=engine.camera_rows, combined=combined(c), data=managers[0], metric=c.weights.metric
        )
        for c, engine in zip(models, engines)
    )
    files = ", ".join(c.config_file for c in models)
    return write_metrics(first, engine, files, protocol, Path(folder) / "test" / "ensemble" / "metrics.json", **more)


def _describe(ensemble: Ensemble, models: list[Candidate]) -> str:
    parts = (f"{w:.2f} {c.cfg.model.name} / {u:.4g}" for w, u, c in zip(ensemble.weights, ensemble.units, models))
    return f"sum of distances {' + '.join(parts)}"


def _of_target(engines: list, managers: list[DataManager], target: str, side: str):
    return _extract(engines, managers, lambda data: data.test_loader[target][side], f"{target} {side}", target)


def _extract(engines: list, managers: list[DataManager], loader, title: str, target: str):
    """What :func:`extract` returns, with the embeddings of all models.

    Args:
        target: the images' data set; empty for training images, whose cameras are rows already.
    """
    runs = [engine.extracted(loader(data), target, title) for engine, data in zip(engines, managers)]
    _, pids, camids, paths = runs[0]
    return EnsembleEmbedding([run[0] for run in runs]), pids, camids, paths


def _check_same_images(managers: list[DataManager]) -> None:
    def listed(data: DataManager):
        sides = [(name, side, rows) for name, sides in data.test_dataset.items() for side, rows in sides.items()]
        return [
            *((name, side, [tuple(row[:3]) for row in rows]) for name, side, rows in sides),
            *((name, "train", [tuple(row[:3]) for row in data.sets[name].train]) for name in data.sources),
        ]

    first = listed(managers[0])
    for data in managers[1:]:
        if listed(data) != first:
            raise DataError(
                "models can be tested as one if their configs have the same training and test sets; these have "
                f"{managers[0].sources}, {managers[0].targets} and {data.sources}, {data.targets}, or other versions"
            )


def _persons(models: list[Candidate], data: DataManager) -> tuple[dict[str, set[int]], list[str]]:
    """Labels, per source, of the training identities that no model was trained on, and no names.

    Where fewer than two are left, labels of a drawn share, and the names of the models that were trained on all.
    """
    everybody = {name: data.sets[name].pids for name in data.sources}
    known = [set(c.weights.pids or ()) for c in models]
    trained_on = set().union(*known)
    unseen = {
        name: {label for label, pid in enumerate(pids) if pid not in trained_on} for name, pids in everybody.items()
    }
    if all(known) and sum(map(len, unseen.values())) > 1:
        return unseen, []
    drawn = {name: set(held_out_labels(len(pids), SHARE)) for name, pids in everybody.items()}
    named = {pid for pids in everybody.values() for pid in pids}
    whole = [c.cfg.model.name for c, pids in zip(models, known) if not pids or named <= pids]
    return drawn, whole or [c.cfg.model.name for c in models]
