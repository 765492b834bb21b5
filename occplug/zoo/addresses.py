"""From the name of weights to a file: a run's folder, one of `save_pretrained`, `hf://`, or the file itself."""

from __future__ import annotations

import os
from pathlib import Path

from occplug.errors import CheckpointError
from occplug.utils.files import user_path
from occplug.utils.texts import parse_json

__all__ = ["HUB", "MODEL_FILE", "ZOO", "weight_file"]

ZOO, HUB = "zoo://", "hf://"
MODEL_FILE = "model.safetensors"  # what `save_pretrained` writes and the hub shows


def weight_file(address: str | os.PathLike) -> str:
    """The weight file at `address`; a name of the zoo stays as it is.

    Args:
        address: a file; the folder of a run of `occplug train` (its last finished stage) or of `save_pretrained`;
            `hf://user/repo`, `hf://user/repo@revision`, each also with `/file` at its end; `zoo://NAME`.

    Raises:
        CheckpointError: a folder without weights, or a repository that cannot be fetched.
    """
    address = os.fspath(address)
    if address.startswith(ZOO):
        return address
    if address.startswith(HUB):
        from occplug.zoo.hub import fetch_from_hub

        return str(fetch_from_hub(address))
    path = user_path(address)
    return str(_in_folder(path) if path.is_dir() else path)


def _in_folder(folder: Path) -> Path:
    if (folder / MODEL_FILE).is_file():
        return folder / MODEL_FILE
    named = [folder / "checkpoints" / f"{name}.pth" for name in _stages(folder)]
    for file in [*reversed(named), folder / "checkpoints" / "last.pth"]:
        if file.is_file():
            return file
    raise CheckpointError(
        f"{folder}: this folder holds no weights: neither {MODEL_FILE} nor checkpoints/ with a finished stage of "
        "occplug train; name a checkpoint, or let the run finish a stage (occplug train --resume)"
    )


def _stages(folder: Path) -> list[str]:
    """Names of the stages that the finished run in `folder` went through."""
    try:
        return [stage["name"] for stage in parse_json((folder / "metrics.json").read_text(encoding="utf-8"))["stages"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
