"""SynthOcc as a data set: rendered at first use, read like any other, with its masks and annotations."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from pathlib import Path

from occplug.datasets.common import MARKET_LAYOUT, Labelled, ReidDataset
from occplug.datasets.layouts import Layout, Part
from occplug.datasets.synthocc import SIZES, Knobs, build, check
from occplug.datasets.synthocc.integrity import read_annotations, read_identities, rebuild_command
from occplug.datasets.synthocc.knobs import DEFAULTS
from occplug.errors import DataError
from occplug.registry import DATASETS
from occplug.utils.files import user_path
from occplug.utils.texts import read_json

__all__ = ["SynthOcc", "rendered_sizes"]

_KNOBS = {field.name for field in dataclasses.fields(Knobs)} - {"seed", "size", "num_cameras"}


def rendered_sizes(root: str) -> list[str]:
    """The sizes of SynthOcc that lie below the folder `root`; nothing is rendered."""
    return [size for size in SIZES if (user_path(root) / "synthocc" / size).is_dir()]


@DATASETS.register_module("synthocc")
class SynthOcc(ReidDataset):
    """The embedded benchmark in `<root>/synthocc/<size>`; `occplug.datasets.synthocc` says what it shows.

    Attributes:
        query_holistic: the queries without their occluders, items as in `query`, in the same order.
        masks_dir: folder of the part and occluder masks.
    Args:
        size: tiny, small, tune or medium.
        seed: of the world.
        options: other knobs of the world (`severity`, `group_size`, `ratio`, ...), and torchreid's options.
    Raises:
        DataError: damaged, made with other knobs, or impossible knobs.
        ConfigError: an option that nobody knows.
    """

    name = "synthocc"

    def __init__(self, root: str = "", size: str = DEFAULTS["size"], seed: int = DEFAULTS["seed"], **options):
        self.size, self.seed = size, seed
        self.knobs = {key: options.pop(key) for key in sorted(_KNOBS & options.keys())}
        super().__init__(root, **options)
        twins = self._images(Part("query_holistic"))
        self.query_holistic = [(image.file.path, image.pid, image.camid, 0) for image in twins]
        for path, *_ in self.query:  # what a test reads of them at its end
            self.annotation(path)

    @classmethod
    def as_rendered(cls, root: str, size: str) -> SynthOcc:
        """`<root>/synthocc/<size>`, read by the settings it was made with. Raises DataError if it is damaged."""
        made_with = check(user_path(root) / "synthocc" / size)["settings"]
        options = {key: made_with[key] for key in sorted({"seed", *_KNOBS} & made_with.keys())}
        return cls(root, size, mode="query", verbose=False, **options)

    def _locate(self) -> tuple[str, Layout]:
        return str(build(self.root, self.size, self.seed, **self.knobs)), MARKET_LAYOUT

    def _fingerprint(self, splits: dict[str, list[Labelled]]) -> str:
        """Of the settings and the content by the manifest: image bytes differ between versions of OpenCV."""
        manifest = read_json(Path(self.dataset_dir, "manifest.json"))
        text = json.dumps([manifest["settings"], manifest["content"]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def masks_dir(self) -> str:
        """Folder of the true masks: of parts, and of what occludes."""
        return os.path.join(self.dataset_dir, "masks")

    @functools.cached_property
    def annotations(self) -> dict[str, dict]:
        """`query/0001_c1_f0000001.jpg` and so on -> the image's line of annotations/images.jsonl."""
        return {record["file"]: record for record in read_annotations(self.dataset_dir, self.seed)}

    @functools.cached_property
    def identities(self) -> dict[int, dict]:
        """Person number -> attributes, caption and look-alike group."""
        return read_identities(self.dataset_dir, self.seed)

    def annotation(self, impath: str) -> dict:
        """What `annotations` says of the image file `impath`. Raises DataError if it says nothing."""
        name = "/".join(Path(impath).parts[-2:])
        if name not in self.annotations:
            raise DataError(
                f"{self.dataset_dir}: annotations/images.jsonl says nothing of {name}; delete the folder and run "
                f"`{rebuild_command(Path(self.dataset_dir), self.seed)}`"
            )
        return self.annotations[name]

    def part_mask_path(self, impath: str) -> str:
        """File of the visible parts' codes, uint8 [H, W], for the image file `impath`."""
        return self._mask("parts", impath)

    def occluder_mask_path(self, impath: str) -> str | None:
        """File of the occluder's mask, 1 bit [H, W], for the image file `impath`; None if nothing occludes it."""
        path = self._mask("occluder", impath)
        return path if os.path.exists(path) else None

    def _mask(self, kind: str, impath: str) -> str:
        image = Path(impath)
        return os.path.join(self.masks_dir, kind, image.parent.name, f"{image.stem}.png")
