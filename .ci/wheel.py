"""Build the sdist, from it the wheel, install that into an empty environment and use it outside the checkout.

The environment has the wheel and, on its path, the libraries of the Python that runs this; occplug's checkout is not on
it. Prints one line a check and ends with status 1 at the first that fails. Usage: python .ci/wheel.py [FOLDER], where
FOLDER keeps the sdist and the wheel.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 15_000_000  # bytes of the wheel
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
LIBRARY = """
import occplug
from occplug.errors import CheckpointError
for name in ("configs/clip_reid_synthocc.yaml", "dpl_reid_synthocc", "osnet_x0_25_synthocc.yaml"):
    occplug.load_config(name)
for name in ("clip_reid/vit_tiny/synthocc", "dpl_reid/vit_tiny/synthocc", "torchreid/osnet_x0_25/synthocc"):
    occplug.load(f"zoo://{name}")
try:
    occplug.load("zoo://dpm/vit_tiny/synthocc")
except CheckpointError as error:
    assert "are not part of the installed package" in str(error), error
else:
    raise SystemExit("weights that the wheel does not have were loaded")
"""


def main() -> None:
    """All checks, one after the other."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(sys.argv[1]).resolve() if sys.argv[1:] else Path(scratch) / "dist"
        place.mkdir(parents=True, exist_ok=True)
        wheel = build(place, Path(scratch))
        python = install(wheel, Path(scratch) / "env")
        outside = Path(scratch) / "outside"
        outside.mkdir()
        use(python, outside)


def build(place: Path, scratch: Path) -> Path:
    """The wheel, built from the sdist alone; both lie in `place`."""
    sdist = place / build_one("sdist", ROOT, place)
    with tarfile.open(sdist) as archive:
        archive.extractall(scratch, filter="data")
    wheel = place / build_one("wheel", scratch / sdist.name.removesuffix(".tar.gz"), place)
    said(f"{sdist.name} {sdist.stat().st_size / 1e6:.1f} MB, {wheel.name} {wheel.stat().st_size / 1e6:.1f} MB")
    if wheel.stat().st_size > LIMIT:
        sys.exit(f"the wheel has more than {LIMIT / 1e6:.0f} MB")
    return wheel


def build_one(kind: str, folder: Path, place: Path) -> str:
    """The name of the file of that kind, built from the sources in `folder`."""
    return call([sys.executable, "-c", BUILD.format(kind=kind), str(place)], folder).splitlines()[-1]


def install(wheel: Path, folder: Path) -> Path:
    """The Python of a new environment with `wheel` in it; the libraries are this Python's."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    call([sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], ROOT)
    site = Path(call([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).strip())
    libraries = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (site / "libraries.pth").write_text("\n".join(sorted(libraries)))  # only adds folders; no editable install is read
    said(f"installed into an empty environment of Python {sys.version.split()[0]}")
    return python


def use(python: Path, folder: Path) -> None:
    """A command, and the library in one process, in `folder`."""
    where = call([str(python), "-c", "import occplug; print(occplug.__file__)"], folder).strip()
    if not Path(where).is_relative_to(python.parents[1]):
        sys.exit(f"occplug was imported from {where}, not from the wheel")
    occplug = str(python.with_name("occplug"))
    call([occplug, "train", "--config-file", "clip_reid_synthocc", "--dry-run"], folder)
    said("occplug train with a config by its name")
    call([str(python), "-c", LIBRARY], folder)
    said("configs, weights inside the wheel and what is said of those outside it")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (render,) = re.findall(r"^occplug (synthocc [^#\n]*)", readme, re.M)  # what the first python block embeds
    call([occplug, *render.split()], folder)
    said("the README's first command")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    code = f"for block in {blocks!r}:\n    exec(compile(block, block, 'exec'), {{}})"
    call([str(python), "-c", code], folder)
    said(f"{len(blocks)} python blocks of the README")


def call(command: list[str], folder: Path) -> str:
    """What `command`, run in `folder`, prints; ends this program with all it said if it fails."""
    answer = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    if answer.returncode:
        sys.exit(
            f"{' '.join(command)} in {folder} ended with status {answer.returncode}:\n{answer.stdout}{answer.stderr}"
        )
    return answer.stdout


def environment() -> dict[str, str]:
    """Of this process, without the way to a checkout and without a network."""
    return {**{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def said(text: str, start: float = time.monotonic()) -> None:
    """Print `text` with the seconds since the start."""
    print(f"wheel: {text} ({time.monotonic() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
