"""From `--config-file` and `--weights` to a model that is ready to be tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from occplug.config import load_config, resolved_yaml, shipped_configs
from occplug.config.changes import changed_keys, is_of_training_alone, saved_values
from occplug.config.files import Setting
from occplug.data.cameras import camera_input, rows_of_sources
from occplug.data.manager import DataManager
from occplug.engine import MethodEngine, check_same_meaning
from occplug.errors import CheckpointError, ConfigError
from occplug.method import Method, build_method
from occplug.runs.session import build_engine
from occplug.zoo import Entry, Index, read_index
from occplug.zoo.addresses import ZOO, weight_file
from occplug.zoo.fetching import fetch
from occplug.zoo.weights import TestWeights, fill, needed_tensors, read_test_weights, save_small

__all__ = [
    "ZOO",
    "Candidate",
    "candidate_of",
    "candidates",
    "combined",
    "config_of",
    "config_path",
    "differences",
    "engine_of",
    "entry_settings",
    "fit",
    "load_trained",
    "load_trained_for",
    "model_of",
    "save_small_file",
]


@dataclass(frozen=True)
class Candidate:
    """A config and the weights to be tested with it."""

    cfg: CfgNode
    config_file: str
    weights: TestWeights


def candidates(config_files: list[str], addresses: list[str], options: list) -> list[Candidate]:
    """Configs and weights in pairs, read and checked.

    Args:
        config_files: one a weight file; none where all weights bring theirs: the zoo, checkpoints and folders of runs.
        addresses: what `occplug.zoo.addresses.weight_file` takes.
        options: config keys over every config.

    Raises:
        ConfigError: numbers that do not pair up, no such zoo entry, or what `load_config` objects to.
        CheckpointError: weights that cannot be fetched or read.
    """
    files: Sequence[str | None] = config_files or [None] * len(addresses)
    if len(files) != len(addresses):
        raise ConfigError(
            f"{len(addresses)} times --weights and {len(files)} times --config-file: give one of each for a "
            "model, or no --config-file at all: the zoo, runs and their checkpoints know their configs"
        )
    index = read_index() if any(address.startswith(ZOO) for address in addresses) else None
    return [_candidate(file, address, options, index) for file, address in zip(files, addresses)]


def _candidate(config_file: str | None, address: str, options: list, index: Index | None) -> Candidate:
    if not address.startswith(ZOO):
        weights = read_test_weights(weight_file(address))
        cfg = _held_config(weights, address, options) if config_file is None else load_config(config_file, options)
        return Candidate(cfg, config_file or "", weights)
    assert index is not None  # read where an address is the zoo's
    entry = index.find(address)
    if config_file is None:
        config_file = str(config_path(entry))
        place = [Setting("data.save_dir", f"log/zoo/{entry.name}", entry.name)]
        is_ours = entry.checkpoint is not None and entry.checkpoint.seed is not None
        options = [*place, *entry_settings(entry, measured=is_ours), *options]
    cfg = load_config(config_file, options)
    return Candidate(cfg, config_file, _zoo_weights(index, entry, cfg))


def _held_config(weights: TestWeights, address: str, options: list) -> CfgNode:
    """The config that the weight file itself holds. Raises ConfigError if it holds none."""
    if not weights.config:
        raise ConfigError(f"{address} does not hold its config; name it with config_file (--config-file)")
    return config_of(weights.config, options)


def candidate_of(cfg: CfgNode, address: str) -> Candidate:
    """`cfg` and the weights at `address`, as `candidates` takes them. Raises as `candidates`."""
    if not str(address).startswith(ZOO):
        return Candidate(cfg, "", read_test_weights(weight_file(address)))
    index = read_index()
    return Candidate(cfg, "", _zoo_weights(index, index.find(address), cfg))


def _zoo_weights(index: Index, entry: Entry, cfg: CfgNode) -> TestWeights:
    path = fetch(index, entry)
    assert entry.checkpoint is not None  # or there was nothing to fetch
    try:
        return read_test_weights(path, entry.checkpoint.format, cfg)
    except CheckpointError as error:
        if index.path_of(entry) is not None:
            raise
        raise CheckpointError(f"{error}; if the download is to blame, delete {path} and it is fetched again") from error


def entry_settings(entry: Entry, measured: bool) -> list[Setting]:
    """What the entry's config file does not say; with `measured` also what our runs changed in it."""
    ours = entry.ours.config if measured and entry.ours is not None else {}
    published = [Setting(key, value, f"zoo entry {entry.name}") for key, value in entry.settings.items()]
    return [*published, *(Setting(key, value, f"zoo entry {entry.name}: ours") for key, value in ours.items())]


def config_path(entry: Entry) -> Path:
    """The entry's config file, always occplug's own."""
    return shipped_configs() / Path(entry.config).name


def config_of(text: str, options: list | None = None) -> CfgNode:
    """The config that a weight file holds as `text`, keys that came later at their defaults, with `options` over it."""
    return load_config(opts=options, text=text)


def engine_of(candidate: Candidate, data: DataManager, folder: Path, device: torch.device):
    """The engine that tests `candidate`. Raises CheckpointError if its weights do not fit its config."""
    cfg, weights = candidate.cfg, candidate.weights
    if weights.module is not None:
        return MethodEngine(cfg, data, weights.module, folder, device)
    engine = build_engine(cfg, data, folder, device, weights.num_classes, weights.num_cameras, pretrained=False)
    fit(engine.method.eval(), candidate)
    engine.camera_rows = weights.camera_rows or _rows_in(candidate)
    return engine


def _rows_in(candidate: Candidate) -> dict[str, tuple[int, int]]:
    """The rows of each source for a file that does not hold them: of earlier versions, or another code's."""
    cfg, weights = candidate.cfg, candidate.weights
    sources = cfg.data.sources
    if weights.config is not None:
        sources = saved_values(weights.config).get("data.sources", sources)
    if len(sources) == 1:
        return {sources[0]: (0, weights.num_cameras)}
    return rows_of_sources(sources, weights.cameras)


def model_of(candidate: Candidate) -> Method:
    """The model of `candidate` with its weights, in eval mode on the CPU. Raises CheckpointError if they do not fit."""
    weights = candidate.weights
    if weights.module is not None:
        return weights.module.eval()
    method = build_method(candidate.cfg, weights.num_classes, weights.num_cameras, pretrained=False).eval()
    fit(method, candidate)
    return method


def load_trained(cfg: CfgNode, weights: str, whole: bool = True) -> Method:
    """The method of `cfg` with the weights at the address `weights`, in eval mode on the CPU.

    Args:
        whole: what only training reads (classifiers, prompts, saliency nets) is needed as well.

    Raises:
        CheckpointError: they cannot be fetched or read, do not fit the config, are an exported file, which cannot be
            looked into, or lack what is needed.
    """
    return _trained(cfg, weights, whole)[0]


def load_trained_for(
    cfg: CfgNode, weights: str, target: str, whole: bool = True
) -> tuple[Method, Callable[[Tensor], Tensor]]:
    """`load_trained`, and cameras [B] of images of the data set `target` -> what the method is given for them.

    Raises as `load_trained`; the function raises DataError for a camera that the weights have not learnt.
    """
    method, candidate = _trained(cfg, weights, whole)
    return method, cameras_of(candidate, target)


def cameras_of(candidate: Candidate, target: str) -> Callable[[Tensor], Tensor]:
    """Cameras [B] of images of the data set `target` -> what the model is given for them, as in a test."""
    return camera_input(candidate.cfg, target, candidate.weights.camera_rows or _rows_in(candidate))


def _trained(cfg: CfgNode, address: str, whole: bool) -> tuple[Method, Candidate]:
    candidate = candidate_of(cfg, address)
    cure = "give a checkpoint of occplug train (SAVE_DIR/checkpoints/STAGE.pth)"
    if candidate.weights.module is not None:
        raise CheckpointError(f"{address}: an exported file gives embeddings and cannot be looked into; {cure}")
    method = model_of(candidate)
    lacking = [name for name in method.state_dict() if name not in candidate.weights.state] if whole else []
    if lacking:
        named = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
        raise CheckpointError(f"{address} holds what a test needs and lacks {named}, which this looks at; {cure}")
    return method, candidate


def fit(method: Method, candidate: Candidate) -> None:
    """Put the candidate's weights into `method`.

    Raises:
        CheckpointError: they do not fit, mean something else there, or lack what testing needs.
    """
    weights = candidate.weights
    _check_constants(candidate)
    check_same_meaning({"bound_to": weights.bound_to}, method.bound_to(), weights.where)
    fill(method, weights, method.training_only)


# Keys without which weights mean something else, though every tensor has the shape it must have.
_CONSTANTS = ("data.norm_mean", "data.norm_std", "backbone.sie_coefficient")


def differences(candidate: Candidate) -> dict[str, list]:
    """Key -> [value in training, value in this test] of the keys that differ and may have a part in the figures."""
    if candidate.weights.config is None:
        return {}
    changes = changed_keys(candidate.weights.config, candidate.cfg)
    return {key: list(values) for key, values in changes.items() if not is_of_training_alone(key)}


def combined(candidate: Candidate) -> bool:
    """Whether the weights were trained on query and gallery images, too, as far as their file says."""
    text = candidate.weights.config
    return text is not None and saved_values(text).get("data.combineall") is True


def _check_constants(candidate: Candidate) -> None:
    """Raise ConfigError for constants that the weights were not trained with."""
    for key, (then, now) in differences(candidate).items():
        if key in _CONSTANTS:
            raise ConfigError(
                f"{key} is {now!r}, and {candidate.weights.where} was trained with {then!r}: its features would be of "
                f"other pictures than it has learnt; set {key} to {then!r}"
            )


def save_small_file(path: Path, cfg, weights: TestWeights, name: str) -> None:
    """Write to `path` what of `weights` a test with `cfg` needs. Raises CheckpointError if they do not fit.

    Args:
        name: of the zoo entry, for the file's header.
    """
    method = model_of(Candidate(cfg, "", weights))
    state = method.state_dict()
    wanted = needed_tensors(method, method.training_only)
    kept = {key: state[key] for key in wanted}
    header: dict[str, Any] = {"config": resolved_yaml(cfg), "pids": list(weights.pids or []), "entry": name}
    header |= {"bound_to": weights.bound_to, "camera_rows": weights.camera_rows}
    header |= {} if weights.images is None else {"images": weights.images}
    save_small(path, kept, weights.num_classes, weights.num_cameras, **header)
