"""The benchmark on disk: rendered in parallel, complete or absent, checked at each start."""

from __future__ import annotations

import json
import logging
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
from tqdm import tqdm

from occplug.datasets.synthocc.files import (
    MANIFEST,
    bank_names,
    make_folders,
    manifest_of,
    settings,
    start_worker,
    write_annotations,
    write_bank,
    write_shots,
)
from occplug.datasets.synthocc.integrity import check, rebuild_command
from occplug.datasets.synthocc.knobs import DEFAULTS, Knobs
from occplug.datasets.synthocc.plan import SIZES, Shot, plan
from occplug.errors import DataError, OutputError
from occplug.utils.files import user_path
from occplug.utils.processes import held

__all__ = ["build"]

_log = logging.getLogger(__name__)
_CHUNK = 32  # images per task: about a quarter of a second


def build(
    root: str | Path,
    size: str = DEFAULTS["size"],
    seed: int = DEFAULTS["seed"],
    workers: int | None = None,
    progress: bool = True,
    **overrides,
) -> Path:
    """Render `<root>/synthocc/<size>/`, or find it there.

    Everything is written to a temporary folder beside it, which gets its name last: what has that name is complete.

    Args:
        size: a key of `SIZES`.   workers: processes; None: one per core.   progress: show a bar.
        overrides: other fields of `Knobs`.
    Returns:
        The folder.
    Raises:
        DataError: unknown size, impossible knob, or a folder that is damaged or was made with other settings.
        OutputError: a disk that cannot be written.
    """
    if size not in SIZES:
        raise DataError(f"synthocc: unknown size {size!r}; sizes are {', '.join(SIZES)}")
    knobs = Knobs(**{"seed": seed, "num_cameras": SIZES[size].cameras, "size": SIZES[size].image, **overrides})
    folder = user_path(root) / "synthocc" / size
    if not folder.exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            # a second run waits for the first one's files
            with held(folder.with_name(f".{size}.lock"), f"the rendering of {folder}", wait=True):
                if not folder.exists():
                    _log.info("rendering SynthOcc %s into %s", size, folder.absolute())
                    _render(folder, size, knobs, workers or _cores(), progress)
        except OSError as error:
            problem = error.strerror or error
            raise OutputError(f"{folder} could not be written: {problem}; nothing was left behind") from error
    return _existing(folder, size, knobs)


def _render(folder: Path, size: str, knobs: Knobs, workers: int, progress: bool) -> None:
    part = folder.with_name(f".{size}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a killed process
        _write(part, size, knobs, plan(SIZES[size], knobs), workers, progress)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _existing(folder: Path, size: str, knobs: Knobs) -> Path:
    """`folder`, if it is complete and was made with these settings."""
    manifest = check(folder)
    wanted = settings(size, knobs)
    differing = [name for name in wanted if manifest["settings"].get(name) != wanted[name]]
    if differing:
        name = differing[0]
        raise DataError(
            f"{folder} was made with other settings: {name} is {manifest['settings'].get(name)}, not {wanted[name]}; "
            f"take another root, or delete the folder and run `{rebuild_command(folder, knobs.seed)}`"
        )
    return folder


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write(part: Path, size: str, knobs: Knobs, shots: list[Shot], workers: int, progress: bool) -> None:
    """All files of the data set into `part`, the manifest last."""
    make_folders(part, shots)
    records: dict[int, dict] = {}
    with tqdm(total=len(shots), desc=f"SynthOcc {size}", unit="img", disable=not progress) as bar:
        for lines in _rendered(part, knobs, shots, workers):
            records.update({line["frame"]: line for line in lines})
            bar.update(len(lines))
    write_bank(part, bank_names(knobs), knobs)
    lines = [records[shot.frame] for shot in shots]
    write_annotations(part, lines, shots, knobs)
    text = json.dumps(manifest_of(part, size, knobs, lines), indent=1)
    (part / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _rendered(part: Path, knobs: Knobs, shots: list[Shot], workers: int):
    """Yield the annotation lines of each chunk of shots, in any order, once its files are written."""
    # neighbours in camera: a worker keeps few panoramas
    ordered = sorted(shots, key=lambda shot: (shot.camid, shot.frame))
    chunks = [ordered[i : i + _CHUNK] for i in range(0, len(ordered), _CHUNK)]
    if workers == 1:
        yield from (write_shots(part, knobs, chunk) for chunk in chunks)
        return
    cv2.setNumThreads(1)  # before the fork: a child that inherits OpenCV's pool waits for ever when it sets the number
    pool = ProcessPoolExecutor(min(workers, len(chunks)), initializer=start_worker)
    try:
        for done in as_completed([pool.submit(write_shots, part, knobs, chunk) for chunk in chunks]):
            yield done.result()
    except BrokenProcessPool as error:
        raise DataError("synthocc: a rendering process was ended from outside (out of memory?)") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
