"""The report of `occplug doctor`, as plain values and as text."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Sequence
from functools import partial

import torch
from packaging.version import Version

import occplug
from occplug.datasets.by_path import OwnImages, dataset_class, is_path
from occplug.datasets.common import ReidDataset
from occplug.datasets.layouts import holds
from occplug.datasets.synthocc_dataset import SynthOcc, rendered_sizes
from occplug.doctor.images import examine
from occplug.errors import DataError
from occplug.registry import DATASETS, get, names
from occplug.torchreid_host import ROOT
from occplug.utils.files import user_path

__all__ = ["MINIMUM", "as_text", "installed", "report"]

# What setup.py asks for, since what does not come by pip may be older; a test compares the two.
MINIMUM = {
    "torch": "2.10",
    "torchvision": "0.25",
    "torchreid": "0.2.5",
    "open_clip_torch": "3.0",
    "timm": "1.0.22",
    "mmengine": "0.10.7",
    "numpy": "2.0",
    "opencv-python": "4.10.0.84",
    "Pillow": "12.2",
    "safetensors": "0.4.5",
    "scipy": "1.13",
}
# Known not to work: package, first and last version, why.
BROKEN = (
    ("torchreid", "1.0", "1.3.99", "only 0.2.5 and 1.4.0 are laid out as occplug knows"),
    ("torchreid", "1.4.1", "999", "only 0.2.5 and 1.4.0 are laid out as occplug knows"),
)
PARTS = ("train", "query", "gallery")


def report(
    root: str | None = None, sets: Sequence[str] = (), images: bool = True, workers: int = 2, pattern: str = ""
) -> dict:
    """What is installed, and what is known of the data sets below `root` and of `sets`.

    Args:
        root: folder of data sets; those that are not there are named as missing. SynthOcc is looked at in every size
            that is rendered there, as `synthocc/SIZE`, and never rendered.
        sets: data sets by path (folder:DIR, csv:FILE) or name; below `root` if they are names.
        images: read all images.
        workers: threads that read them.
        pattern: as `data.pattern`, for folders.

    Raises:
        DataError, ConfigError: `root` is no folder, or one of `sets` cannot be read; says the cure.
    """
    content: dict = {"installed": installed(), "sets": {}, "missing": [], "unreadable": {}}
    for name in sets:
        for title, read in _asked_for(name, root or "", pattern).items():
            content["sets"][title] = _described(read(), images, workers)
    if root is not None:
        folder = str(user_path(root))
        if not os.path.isdir(folder):
            raise DataError(f"--root {root} is not a folder; name the folder that holds the data sets")
        for name in names(DATASETS) if not sets else ():
            found = _below(name, folder)
            content["missing"] += [] if found else [name]
            for title, read in found.items():
                try:
                    content["sets"][title] = _described(read(), images, workers)
                except DataError as error:
                    content["unreadable"][title] = str(error)
    return content


def _below(name: str, root: str) -> dict[str, Callable[[], ReidDataset]]:
    """What the folder `root` holds of the data set `name`: title -> what reads it. Nothing is made."""
    if name == SynthOcc.name:
        return {f"{name}/{size}": partial(SynthOcc.as_rendered, root, size) for size in rendered_sizes(root)}
    made = get(DATASETS, name)
    return {name: partial(made, root=root, mode="query", verbose=False)} if holds(root, made.folders) else {}


def _asked_for(name: str, root: str, pattern: str) -> dict[str, Callable[[], ReidDataset]]:
    """As `_below`, of the data set `name`, whether or not it can be tested on; what is not there says so when read."""
    if name == SynthOcc.name:
        found = _below(name, root)
        if not found:
            place = root or "."
            raise DataError(f"{name} is not below {place}; render it: occplug synthocc --root {place} --size small")
        return found
    options = {"mode": "train", "pattern": pattern} if is_path(name) else {"mode": "query"}
    return {name: partial(dataset_class(name), root=root, verbose=False, **options)}


def _described(data: ReidDataset, images: bool, workers: int) -> dict:
    counts = {part: _counts(getattr(data, part)) for part in PARTS}
    described: dict = {"folder": data.dataset_dir, "fingerprint": data.fingerprint, **counts}
    described["left_out"] = {reason: count for reason, count in data.left_out.items() if count}
    described["not_as_published"] = data.differences
    if isinstance(data, OwnImages):
        described["cameras_known"], described["split_drawn"] = data.has_cameras, data.is_drawn
    return described | (examine(data, workers) if images else {})


def _counts(rows: list[tuple]) -> dict[str, int]:
    return {
        "images": len(rows),
        "persons": len({row[1] for row in rows}),
        "cameras": len({row[2] for row in rows if row[2] >= 0}),
    }


# ---------------------------------------------------------------------- what is installed


def installed() -> dict:
    """Versions, devices, and what is known not to work with them."""
    versions = {name: _version(name) for name in MINIMUM}
    cuda = torch.version.cuda
    devices = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if cuda else []
    return {
        "occplug": occplug.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        **versions,
        "torchreid modules": f"{ROOT}.*",
        "CUDA of torch": cuda or "none",
        "GPUs": devices,
        "problems": _problems(versions) + _device_problems(cuda, devices),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed by pip"


def _problems(versions: dict[str, str]) -> list[str]:
    problems = []
    for package, text in versions.items():
        if not text[:1].isdigit():
            continue
        version = Version(text)
        if version < Version(MINIMUM[package]):
            problems.append(f"{package} {text} is older than {MINIMUM[package]}: pip install -U {package}")
        for name, first, last, why in BROKEN:
            if name == package and Version(first) <= version <= Version(last):
                problems.append(f"{package} {text} is known not to work: {why}; pip install torchreid==0.2.5")
    return problems


def _device_problems(cuda: str | None, devices: list[str]) -> list[str]:
    if cuda and not devices and os.path.exists("/proc/driver/nvidia"):
        return [
            f"torch is built for CUDA {cuda} and finds no GPU, though a driver is loaded: compare nvidia-smi's CUDA"
        ]
    return []


# ---------------------------------------------------------------------- text


def as_text(content: dict) -> str:
    """`content` of `report` as lines, fit for an issue."""
    installed = {key: value for key, value in content["installed"].items() if key != "problems"}
    lines = ["installed", *(f"  {key:18s}{_plain(value)}" for key, value in installed.items())]
    lines += [f"  PROBLEM: {problem}" for problem in content["installed"]["problems"]]
    for name, described in content["sets"].items():
        lines += ["", name, *_set_lines(described)]
    for name, reason in content["unreadable"].items():
        lines += ["", name, f"  PROBLEM: {reason}"]
    if content["missing"]:
        lines += ["", f"not there: {', '.join(content['missing'])}"]
    return "\n".join(lines)


def _plain(value) -> str:
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


def _set_lines(described: dict) -> list[str]:
    lines = [f"  folder            {described['folder']}"]
    for part in PARTS:
        counts = described[part]
        lines.append(f"  {part:18s}{', '.join(f'{count} {what}' for what, count in counts.items())}")
    if not described.get("cameras_known", True):
        lines.append("  cameras           unknown: it is evaluated without the camera filter")
    if described.get("split_drawn"):
        lines.append("  split             drawn by data.split_id")
    if described["left_out"]:
        lines.append(f"  left out          {', '.join(f'{n} {why}' for why, n in described['left_out'].items())}")
    lines += [f"  NOT AS PUBLISHED: {part}: {', '.join(what)}" for part, what in described["not_as_published"].items()]
    if "images" not in described:
        return [*lines, "  images            not read"]
    lines.append(f"  read              {described['images']} images")
    lines += _finding("damaged", described["damaged"]) + _finding("blank", described["blank"])
    lines += _finding("smaller than 16 pixels", described["small"])
    near = described["near_duplicates"]
    lines += _finding("near-duplicates of two identities", near["other_persons"])
    lines += _finding("near-duplicates in training and test", near["train_and_test"])
    for name, values in described["labels"].items():
        lines += _finding(name.replace("_", " "), values)
    return lines


def _finding(title: str, listed: dict) -> list[str]:
    if not listed["count"]:
        return []
    rest = listed["count"] - len(listed["first"])
    lines = [f"  {title}: {listed['count']}"]
    lines += [f"    {_pair(value) if isinstance(value, list) else value}" for value in listed["first"]]
    return lines + [f"    ... and {rest} more"] * bool(rest)


def _pair(value: list) -> str:
    first, second, bits = value
    return f"{first} = {second} ({bits} of 256 bits differ)"
