"""Checkpoint files: written whole or not at all, read with `weights_only=True`, refused with a reason.

A checkpoint is a dict of tensors, numbers and strings. Its keys `state_dict`, `epoch`, `rank1`, `optimizer` and
`scheduler` are those torchreid writes, so torchreid's own loaders read our files too.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import nn

from occplug import _moved
from occplug.engine.contents import check_kinds, check_parts
from occplug.errors import CheckpointError
from occplug.method import Method
from occplug.utils.files import check_text, user_path, write_atomically
from occplug.utils.integrity import check_archive, check_tensors
from occplug.utils.keys import with_current_names

__all__ = [
    "check_run",
    "check_same_meaning",
    "check_same_run",
    "load_checkpoint",
    "load_weights",
    "not_finite",
    "save_checkpoint",
]

__getattr__ = _moved.older_names(__name__)

FORMAT = "occplug-1"
LISTED = 20  # differences an error names one by one


def save_checkpoint(state: dict, path: Path) -> None:
    """Write `state` to `path` under our format mark. Raises OutputError as `check_text` and `write_atomically`."""
    check_text(path)
    write_atomically(path, lambda temporary: torch.save({"format": FORMAT, **state}, temporary))


def not_finite(state: dict, parameters: Collection[str]) -> list[str]:
    """Names of the tensors of a run's `state` that training has spoilt.

    Args:
        parameters: names of the model's parameters. Buffers may be infinite, where a method means "not yet" by it.
    """
    bad = []
    for name, value in state["state_dict"].items():
        if value.is_floating_point():
            spoilt = ~torch.isfinite(value) if name in parameters else torch.isnan(value)
            bad += [name] if bool(spoilt.any()) else []
    optimizers = [state["optimizer"], *(extra["optimizer"] for extra in state.get("extra_optimizers", []))]
    for moments in (each for optimizer in optimizers for each in optimizer["state"].values()):
        bad += [
            f"the optimiser's {key}"
            for key, value in moments.items()
            if isinstance(value, torch.Tensor) and not bool(torch.isfinite(value).all())
        ]
    return bad


def load_checkpoint(path) -> dict:
    """Read one of our checkpoints onto the CPU, without unpickling anything but tensors and plain values.

    Raises:
        CheckpointError: missing, not a checkpoint, unsafe, written by something else, or a part of it is not what it
            must be.
    """
    whole = "give a checkpoint of occplug train (SAVE_DIR/checkpoints/STAGE.pth)"
    if str(path).startswith("zoo://"):
        raise CheckpointError(f"{path}: weights of the zoo hold what a test needs and no more; {whole}")
    path = user_path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint file")
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path}: a small file holds what a test needs and no more; {whole}")
    check_archive(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles and archives fail in many ways
        raise CheckpointError(f"{path}: {_unreadable(error)}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: not a checkpoint of occplug; official files are read by occplug.importers.load_official"
        )
    check_tensors(state, path)
    check_kinds(state, path)
    check_parts(state, ("state_dict",), path)
    return state


def _unreadable(error: Exception) -> str:
    if "GLOBAL" in str(error):  # how torch names an object that is neither a tensor nor a plain value
        return (
            "refused, because reading it would run code stored in the file; only tensors and plain values are accepted"
        )
    return "not a readable checkpoint: damaged, cut off, or a file of another kind"


def check_run(state: dict, path) -> None:
    """Raise CheckpointError unless `state` is of a training run, which holds its identities, cameras and stages."""
    if "pids" not in state:
        raise CheckpointError(
            f"{path} was not written by occplug train (a converted file?), so it does not say which identities and "
            "stages it holds; give a checkpoint of a run"
        )


def check_same_meaning(state: dict, bound_to: dict[str, str], path) -> None:
    """The part of `check_same_run` that files of other code can be asked, too."""
    before = state.get("bound_to", {})  # files of earlier versions do not say
    for key in sorted(before.keys() & bound_to.keys()):  # what only one has, its tensors tell
        if before[key] != bound_to[key]:
            raise CheckpointError(
                f"{path} was trained with {key} {before[key]!r}, and this run has {bound_to[key]!r}; "
                f"set {key} as in the file, or train its stage again"
            )


def check_same_run(state: dict, bound_to: dict[str, str], pids: list, path) -> None:
    """Check that a checkpoint's weights mean in this run what they meant in the one that wrote it.

    Shapes alone do not show it: prompts learnt for other identities, or in another text of the same length, load too.

    Args:
        state: of the checkpoint `path`.
        bound_to: what the model says its weights are bound to (`Method.bound_to`).
        pids: class -> person number in the training set.

    Raises:
        CheckpointError: names both templates, or the classes that differ one by one.
    """
    check_run(state, path)
    check_same_meaning(state, bound_to, path)
    classes = range(max(len(state["pids"]), len(pids)))
    named = [(k, _person(state["pids"], k), _person(pids, k)) for k in classes]
    lines = [f"class {k} is {then} in the file and {now} here" for k, then, now in named if then != now]
    if lines:
        more = [f"and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
        head = (
            f"{path} was trained for other identities ({len(state['pids'])} classes, {len(pids)} here); "
            "use the training data of the file, or train its stage again"
        )
        raise CheckpointError("\n  ".join([head, *lines[:LISTED], *more]))


def _person(pids: list, label: int) -> str:
    return f"person {pids[label]}" if label < len(pids) else "absent"


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], path) -> None:
    """Copy `weights` into `module`, all or nothing.

    Raises:
        CheckpointError: lists every missing, unknown and wrongly shaped key, and says what usually causes it.
    """
    here, weights = module.state_dict(), dict(with_current_names(weights, module))
    missing = sorted(here.keys() - weights.keys())
    unknown = sorted(weights.keys() - here.keys())
    reshaped = [name for name in sorted(here.keys() & weights.keys()) if weights[name].shape != here[name].shape]
    shapes = [
        f"{name} is {list(weights[name].shape)} in the file and {list(here[name].shape)} in the model"
        for name in reshaped
    ]
    if missing or unknown or shapes:
        explain = getattr(type(module), "explain_mismatch", Method.explain_mismatch)
        cause = explain([*missing, *unknown], reshaped)
        head = f"{path} does not fit {type(module).__name__}: {cause}"
        raise CheckpointError("\n  ".join([head, *_report(missing, unknown, shapes)]))
    module.load_state_dict(weights)


def _report(missing: list[str], unknown: list[str], shapes: list[str]) -> list[str]:
    lines = shapes[:20]
    for title, keys in (("missing in the file", missing), ("unknown to the model", unknown)):
        if keys:
            more = f" and {len(keys) - 20} more" if len(keys) > 20 else ""
            lines.append(f"{title}: {', '.join(keys[:20])}{more}")
    return lines
