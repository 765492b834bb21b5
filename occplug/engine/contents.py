"""What a checkpoint of ours must hold, and of which kind: a file may be readable and still lack or mistype a part."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from occplug.data.recognition import are_marks
from occplug.errors import CheckpointError

__all__ = ["LARGEST", "OF_A_RUN", "TO_RESUME", "check_kinds", "check_parts"]

LARGEST = 500_000  # identities or cameras: a model is made for so many before anything of the file is compared


def _is_count(value) -> bool:
    return type(value) is int and value >= 0


def _is_size(value) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_seconds(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _are_tensors(value) -> bool:
    return isinstance(value, dict) and all(isinstance(k, str) and _is_plain(v) for k, v in value.items())


def _is_plain(value) -> bool:
    strided = isinstance(value, Tensor) and value.layout is torch.strided and value.device.type != "meta"
    return strided and not value.is_complex() and not value.is_quantized


def _are_records(value) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and one.keys() == {"name", "epochs", "seconds"}
        and (isinstance(one["name"], str) and _is_count(one["epochs"]) and _is_seconds(one["seconds"]))
        for one in value
    )


def _are_data_sets(value) -> bool:
    counts = ("train", "query", "gallery")
    return isinstance(value, dict) and all(
        isinstance(one, dict)
        and isinstance(one.get("fingerprint"), str)
        and all(_is_count(one.get(count)) for count in counts)
        for one in value.values()
    )


def _are_rows(value) -> bool:
    return isinstance(value, dict) and all(
        isinstance(rows, (list, tuple)) and len(rows) == 2 and all(map(_is_count, rows)) for rows in value.values()
    )


def _are_texts(value) -> bool:
    return isinstance(value, dict) and all(isinstance(x, str) for pair in value.items() for x in pair)


def _are_states(value) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and _is_optimizer(one.get("optimizer")) for one in value
    )


def _is_optimizer(value) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("state"), dict):
        return False
    groups = value.get("param_groups")
    return isinstance(groups, list) and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups)


def _are_draws(value) -> bool:
    """As `random_states` returns them; what is inside is checked where it is restored."""
    return isinstance(value, dict) and value.keys() >= {"python", "numpy", "torch", "cuda"}


def _of(kind: type | tuple[type, ...]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, kind)


# part -> (what it must be, the check)
KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "state_dict": ("tensors of real numbers by name", _are_tensors),
    "config": ("text", _of(str)),
    "stage": ("text", _of(str)),
    "stage_index": ("a whole number of at least 0", _is_count),
    "epoch": ("a whole number of at least 0", _is_count),
    "seconds": ("a number", _is_seconds),
    "records": ("a list of stages with name, epochs and seconds", _are_records),
    "pids": ("a list", _of((list, tuple))),
    "cameras": ("a list", _of((list, tuple))),
    "camera_rows": ("first row and number for each source", _are_rows),
    "data": ("counts and a fingerprint for each data set", _are_data_sets),
    "bound_to": ("texts by key", _are_texts),
    "optimizer": ("an optimiser's state", _is_optimizer),
    "scheduler": ("a schedule's state", _of(dict)),
    "scaler": ("a loss scale's state", _of(dict)),
    "random": ("the states of the random generators", _are_draws),
    "extra_optimizers": ("a list of optimisers' states", _are_states),
    "companions": ("a list of optimisers' states", _are_states),
    "changes": ("a list", _of(list)),
    "licence": ("text", _of(str)),
    "embedded": ("texts by file", _are_texts),
    "images": ("marks of training and test images", are_marks),
    "num_classes": (f"a whole number from 0 to {LARGEST:,}", _is_size),
    "num_cameras": (f"a whole number from 0 to {LARGEST:,}", _is_size),
}
OF_A_RUN = ("state_dict", "pids", "cameras")
TO_RESUME = (*OF_A_RUN, "stage", "epoch", "seconds", "records", "config", "data")


def check_kinds(state: dict, path) -> None:
    """Raise CheckpointError if a part of `state` that is there is not of its kind; names the part."""
    for part, (kind, holds) in KINDS.items():
        if part in state and not holds(state[part]):
            raise CheckpointError(
                f"{path}: its part {part!r} is not {kind} (it is of type {type(state[part]).__name__}); the file is "
                "damaged or was changed: fetch or make it again"
            )


def check_parts(state: dict, parts: tuple[str, ...], path) -> None:
    """Raise CheckpointError if one of `parts` is missing; lists all that are."""
    missing = [part for part in parts if part not in state]
    if missing:
        raise CheckpointError(
            f"{path}: it lacks {', '.join(missing)}; the file is damaged or was changed: fetch or make it again"
        )
