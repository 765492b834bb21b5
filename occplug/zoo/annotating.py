"""Something more to be kept with weights that are on disk already."""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import safe_open

from occplug.engine.checkpoint import load_checkpoint, save_checkpoint
from occplug.errors import CheckpointError
from occplug.importers.exported import exported_format
from occplug.utils.files import write_atomically
from occplug.utils.integrity import CHECKSUM, save_checked

__all__ = ["check_keeps", "keep_calibration"]


def check_keeps(source: str | os.PathLike) -> None:
    """Raise CheckpointError if `source` is an exported file, which nothing can be added to."""
    if exported_format(source):
        raise CheckpointError(f"{source}: calibrate the weights it was exported from, and export them again")


def keep_calibration(source: str | os.PathLike, calibration: dict, target: str | os.PathLike | None = None) -> Path:
    """Write the weight file `source` again with `calibration`, to `target` or over itself; returns where.

    Raises:
        CheckpointError: an exported file, which is calibrated before its export, or what reading objects to.
    """
    source = Path(source)
    target = source if target is None else Path(target)
    check_keeps(source)
    if source.suffix == ".safetensors" or _starts_like_safetensors(source):
        with safe_open(str(source), framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
        header.pop(CHECKSUM, None)
        header["calibration"] = json.dumps(calibration)
        write_atomically(target, lambda temporary: save_checked(tensors, temporary, header))
        return target
    content = load_checkpoint(source)
    save_checkpoint({**content, "calibration": calibration}, target)
    return target


def _starts_like_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"
