"""What is kept about a run beside its figures, so that they can be explained later: when, on what, with which code."""

from __future__ import annotations

import functools
import hashlib
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

import torch

import occplug
from occplug.backbones import swin, tiny, vit
from occplug.backbones.lsnet_weights import EMBEDDED
from occplug.occluders.categories import EMBEDDED_CATEGORIES
from occplug.occluders.library import EMBEDDED_LIBRARY
from occplug.registry import has_texts, model_class
from occplug.utils.measuring import MIB, peak_memory, processor, reset_peak

__all__ = ["embedded", "revision", "run_record", "sources", "start_record", "versions"]

PACKAGES = ("torch", "torchvision", "torchreid", "open_clip_torch", "timm", "numpy", "opencv-python", "pillow")
_COMPUTING = {".py", ".safetensors", ".png", ".json", ".yaml"}  # code, the tiny CLIP, occluders
# of these folders only the files named have a part in figures; the rest shows, lists or measures
_PARTLY = {
    "cli": set(),
    "doctor": set(),
    "experiments": set(),
    "reports": set(),
    "runs": {"candidates.py", "ensemble.py", "evaluate.py", "session.py", "train.py"},
    "zoo": {"weights.py"},
}


_TOWERS = {"vit_mini": vit.EMBEDDED, "solider_swin_mini": swin.EMBEDDED}  # backbone -> its weights in the package


def start_record() -> None:
    """From here on memory is watched for its peak; the code is noted before anybody edits it."""
    revision(), sources()
    reset_peak()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def embedded(cfg) -> dict[str, str]:
    """Files of the package that move the figures of a training of `cfg`, with 12 digits of their SHA-256.

    They may be other ones in the next version, and no config key says so: initial weights and drawn occluders.
    """
    files = []
    if not model_class(cfg.model.name).is_stock:
        if cfg.backbone.weights in tiny.NAMES:
            files.append(_TOWERS.get(cfg.backbone.name, tiny.ASSET))  # a hybrid is around the tiny CLIP
        if cfg.prompts.weights in tiny.NAMES and not has_texts(cfg.backbone.name):
            files.append(tiny.ASSET)
        if cfg.backbone.name == "wgff" and cfg.backbone.wgff.weights == "embedded":
            files.append(EMBEDDED)
    for name in ("oia", "rwoa"):
        if name in cfg.data.transforms:
            files += [] if cfg.augment[name].library else [EMBEDDED_LIBRARY]
            files += [] if cfg.augment[name].categories else [EMBEDDED_CATEGORIES]
    return {path.name: _digits(path) for path in sorted(set(files))}


@functools.cache  # as of `sources`
def _digits(path: Path) -> str:
    """12 hexadecimal digits of a file, or over names and contents of a folder."""
    return _hash(path) if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def run_record() -> dict:
    """`date`, `machine` (its kind), `versions`, `revision`, `sources` and `memory_mib` (peak since `start_record`).

    Memory is the GPU's where there is one (what torch holds of it), else the process's.
    """
    uses_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if uses_gpu else peak_memory()
    device = torch.cuda.get_device_name() if uses_gpu else f"{processor()}, {torch.get_num_threads()} threads"
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": device,
        "versions": versions(),
        "revision": revision(),
        "sources": sources(),
        "memory_mib": round(peak / MIB),
    }


def versions() -> dict[str, str]:
    """Version of Python, of occplug and of the packages that move figures."""
    result = {"python": platform.python_version(), "occplug": occplug.__version__}
    for name in PACKAGES:
        try:
            result[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            result[name] = "none"
    return result | {"torch": torch.__version__}


@functools.cache  # a process runs the code it was started with
def revision() -> str:
    """The checkout's commit, followed by `+` if tracked files differ from it; "unknown" without git."""
    folder = Path(occplug.__file__).parents[1]
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD").strip()
        return commit + (
            "+" if _git(folder, "status", "--porcelain", "--untracked-files=no", "occplug").strip() else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


@functools.cache
def sources() -> str:
    """Hash of the package's files that have a part in figures; unlike `revision`, a changed text leaves it as it is."""
    return _hash(Path(occplug.__file__).parent)


def _hash(package: Path) -> str:
    """12 hexadecimal digits over names and contents."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        inside = path.relative_to(package)
        if path.suffix in _COMPUTING and path.name in _PARTLY.get(inside.parts[0], {path.name}):
            digest.update(f"{inside.as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:12]


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
