"""What is kept about a run beside its figures, so that they can be explained later: when, on what, with which code."""

from __future__ import annotations

import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path

import torch

import occplug
from occplug.measuring import MIB, peak_memory, processor, reset_peak

__all__ = ["revision", "run_record", "start_record", "versions"]

PACKAGES = ("torch", "torchvision", "torchreid", "open_clip_torch", "timm", "numpy", "pillow")


def start_record() -> None:
    """From here on memory is watched for its peak."""
    reset_peak()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def run_record() -> dict:
    """`date`, `machine` (its kind), `versions`, `revision` and `memory_mib` (peak since `start_record`) of this run.

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
        "memory_mib": round(peak / MIB),
    }


def versions() -> dict[str, str]:
    """Version of Python, of occplug and of the packages that move figures."""
    found = {"python": platform.python_version(), "occplug": occplug.__version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return found | {"torch": torch.__version__}


def revision() -> str:
    """The checkout's commit, with `+` behind it if tracked files differ from it; "unknown" without git."""
    folder = Path(occplug.__file__).parents[1]
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD").strip()
        return commit + (
            "+" if _git(folder, "status", "--porcelain", "--untracked-files=no", "occplug").strip() else ""
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
