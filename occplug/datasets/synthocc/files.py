"""Writing the files of the data set: images, masks, occluder bank, annotations, manifest."""

from __future__ import annotations

import hashlib
import json
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from occplug.datasets.synthocc.captions import caption
from occplug.datasets.synthocc.image import Rendered, render
from occplug.datasets.synthocc.knobs import CATEGORIES, Knobs
from occplug.datasets.synthocc.occluder import cutout
from occplug.datasets.synthocc.persona import persona
from occplug.datasets.synthocc.plan import TRAIN, Shot
from occplug.datasets.synthocc.randomness import BANK_WORLD, OCCLUDER, rng
from occplug.utils.processes import end_with_parent

__all__ = [
    "IDENTITIES", "IMAGES", "MANIFEST", "VERSION", "bank_names", "make_folders", "manifest_of", "settings",
    "start_worker", "write_annotations", "write_bank", "write_shots",
]  # fmt: skip

VERSION = "synthocc-1"  # any change of pixels beyond two grey levels, of labels or of lists bumps it
MANIFEST, IDENTITIES, IMAGES = "manifest.json", "annotations/identities.json", "annotations/images.jsonl"
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 92]
_PER_CATEGORY = 10  # cut-outs in the bank
_BANK_HEIGHT = 192  # frame height that the cut-outs are drawn for, pixels
_LICENSE = """SynthOcc is rendered by a program. No person shown is real.

To the extent possible under law, the authors have waived all copyright and related or neighbouring rights to these
images and annotations: CC0 1.0 Universal, https://creativecommons.org/publicdomain/zero/1.0/
"""


def start_worker() -> None:
    """In each rendering process: one thread, Ctrl-C is the parent's business, and none outlives the parent."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)


def settings(size: str, knobs: Knobs) -> dict:
    """Everything that decides the content, as JSON gives it back."""
    return json.loads(json.dumps({"version": VERSION, "benchmark": size, **asdict(knobs)}))


def make_folders(root: Path, shots: Sequence[Shot]) -> None:
    """The empty folders of a data set of `shots`."""
    splits = {shot.split for shot in shots}
    folders = [root / split for split in splits] + [root / "masks" / "parts" / split for split in splits]
    folders += [root / "masks" / "occluder" / shot.split for shot in shots if shot.is_occluded]
    for folder in [*dict.fromkeys(folders), root / "occluders", root / "annotations"]:
        folder.mkdir(parents=True)


def write_shots(root: Path, knobs: Knobs, shots: Sequence[Shot]) -> list[dict]:
    """Render `shots` and write their images and masks. -> their lines of `images.jsonl`."""
    lines = []
    for shot in shots:
        seen_only = shot.split == TRAIN  # held-out occluders never appear in training
        made = render(knobs, shot.pid, shot.camid, shot.k, occluded=shot.is_occluded, seen_only=seen_only)
        _encode(root / shot.file, cv2.cvtColor(made.image, cv2.COLOR_RGB2BGR), _JPEG)
        _encode(root / "masks" / "parts" / shot.split / f"{shot.stem}.png", made.parts)
        if made.occluder is not None:
            Image.fromarray(made.occluder).save(root / "masks" / "occluder" / shot.split / f"{shot.stem}.png")
        lines.append(_annotation(shot, made))
    return lines


def _encode(path: Path, image: np.ndarray, options: Sequence[int] = ()) -> None:
    """cv2.imwrite reports a full disk by False only; this raises OSError."""
    path.write_bytes(cv2.imencode(path.suffix, image, list(options))[1].tobytes())


def _annotation(shot: Shot, made: Rendered) -> dict:
    return {
        "split": shot.split,
        "file": shot.file,
        "frame": shot.frame,
        "pid": shot.pid + 1,
        "camid": shot.camid,
        "k": shot.k,
        "yaw_deg": round(made.yaw_deg, 1),
        "occluder": made.category,
        "occlusion_ratio": round(made.ratio, 4),
        "part_visibility": {name: round(value, 3) for name, value in made.visibility.items()},
        "keypoints": [[round(float(x), 1), round(float(y), 1), int(seen)] for x, y, seen in made.keypoints],
    }


def bank_names(knobs: Knobs) -> list[str]:
    """File names of the occluder bank; held-out categories are not in it."""
    in_training = [category for category in CATEGORIES if category not in knobs.heldout_occluders]
    return [f"{category}_{number:02d}.png" for category in in_training for number in range(_PER_CATEGORY)]


def write_bank(root: Path, names: Sequence[str], knobs: Knobs) -> None:
    """Occluder cut-outs, RGBA, of another world than the benchmark's."""
    for name in names:
        category, number = name.removesuffix(".png").rsplit("_", 1)
        draw = rng(BANK_WORLD, OCCLUDER, list(CATEGORIES).index(category), int(number))
        picture = cutout(category, draw, BANK_WORLD, knobs.group_size, _BANK_HEIGHT)
        _encode(root / "occluders" / name, cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA))


def write_annotations(root: Path, lines: Sequence[dict], shots: Sequence[Shot], knobs: Knobs) -> None:
    """identities.json, images.jsonl and the licence."""
    identities = {}
    for pid in sorted({shot.pid for shot in shots}):
        person = persona(knobs.seed, pid, knobs.group_size)
        identities[str(pid + 1)] = {**person.attributes(), "caption": caption(person), "group": person.group}
    (root / IDENTITIES).write_text(json.dumps(identities, indent=1) + "\n", encoding="utf-8")
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    (root / IMAGES).write_text(text, encoding="utf-8")
    (root / "LICENSE.txt").write_text(_LICENSE, encoding="utf-8")


def manifest_of(root: Path, size: str, knobs: Knobs, lines: Sequence[dict]) -> dict:
    """What the finished folder says about itself; the hash covers lists, attributes and occluders, not pixels."""
    content = hashlib.sha256((root / IDENTITIES).read_bytes())
    for line in lines:
        content.update(f"{line['file']} {line['pid']} {line['camid']} {line['k']} {line['occluder']}\n".encode())
    files = Counter(line["split"] for line in lines)
    files |= {f"masks/parts/{split}": count for split, count in files.items()}
    files |= Counter(f"masks/occluder/{line['split']}" for line in lines if line["occluder"])
    return {
        "version": VERSION,
        "settings": settings(size, knobs),
        "counts": dict(Counter(line["split"] for line in lines)),
        "identities": len({line["pid"] for line in lines}),
        "files": {**files, "occluders": len(bank_names(knobs)), "annotations": 2},
        "content": content.hexdigest(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }
