"""Rendered training images on disk, in chunks that appear while training already runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from occplug.datasets.synthocc import GROUPS, Persona, visible_clauses
from pretraining.render import OCCLUDERS, Scene, caption_of, draw_persona, render
from pretraining.texts import CLAUSES, PHRASES, VALUES

__all__ = ["CHUNK", "Pool", "labels_of", "render_chunks", "shares_of"]

CHUNK = 512  # images a file; 12.6 MB
IMAGES_PER_PERSONA = 2


def _path(folder: Path, number: int, kind: str = "images") -> Path:
    return folder / f"{kind}_{number:05d}.npy"


def _save(path: Path, array: np.ndarray) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with open(temporary, "wb") as file:
        np.save(file, array)
    temporary.replace(path)


def render_chunks(folder: Path, numbers: list[int], scene: Scene) -> None:
    """Write the chunks `numbers` that are not there yet; each appears whole or not at all.

    A chunk is two files: images uint8 [CHUNK, H, W, 3], and before it occlusions float32 [CHUNK, 1 + 8], the number of
    what stands in front (OCCLUDERS) and the share of each of the eight groups of parts that shows.
    """
    for number in numbers:
        path = _path(folder, number)
        if path.exists():
            continue
        first = number * CHUNK
        views = [render(scene, *divmod(i, IMAGES_PER_PERSONA)) for i in range(first, first + CHUNK)]
        occlusions = [
            [OCCLUDERS.index(v.category or "none"), *(v.visibility[g] for g in GROUPS["eight"])] for v in views
        ]
        _save(_path(folder, number, "occlusions"), np.array(occlusions, np.float32))
        _save(path, np.stack([v.image for v in views]))


def _read(occlusions: np.ndarray) -> tuple[list[str], list[dict[str, float]]]:
    """Rows of an occlusions file -> what stands in front, and the visible share of each group of parts."""
    visible = [dict(zip(GROUPS["eight"], line[1:].tolist(), strict=True)) for line in occlusions]
    return [OCCLUDERS[int(line[0])] for line in occlusions], visible


def labels_of(
    personas: list[Persona], occluders: list[str], visibilities: list[Mapping[str, float]] | None = None
) -> dict[str, Tensor]:
    """Value numbers [n] per attribute of PHRASES, -100 where it cannot be told: hair colour where no hair shows.

    Args:
        occluders: one of OCCLUDERS for each image.
        visibilities: share of each of the eight groups of parts that shows; with it, what is hidden cannot be told.
    """
    values = {name: [getattr(p, name) for p in personas] for name in PHRASES if name != "occluder"}
    labels = {
        n: torch.tensor([VALUES[n].index(v) for v in line]) for n, line in (values | {"occluder": occluders}).items()
    }
    bare = torch.tensor([p.hair == "bald" or p.hat != "none" for p in personas])
    labels["hair_color"] = labels["hair_color"].masked_fill(bare, -100)
    if visibilities is not None:
        shown = [visible_clauses(line) for line in visibilities]
        for name, clause in CLAUSES.items():
            labels[name] = labels[name].masked_fill(torch.tensor([clause not in line for line in shown]), -100)
    return labels


def shares_of(labels: dict[str, Tensor]) -> dict[str, Tensor]:
    """Per attribute the share of each value among the labels that are not hidden."""
    counts = {n: label[label >= 0].bincount(minlength=len(VALUES[n])) for n, label in labels.items()}
    return {name: count / count.sum() for name, count in counts.items()}


class Pool:
    """The chunks of one training process: every `world`-th, so that no two processes see the same look-alikes.

    Args:
        folder: where `render_chunks` writes.
        chunks: how many there will be.
        scene: what was rendered.
    """

    def __init__(self, folder: Path, chunks: int, scene: Scene, rank: int = 0, world: int = 1):
        self.folder, self.scene = folder, scene
        self.wanted = list(range(rank, chunks, world))
        self.images: dict[int, np.ndarray] = {}
        self.occlusions: dict[int, np.ndarray] = {}

    def refresh(self) -> int:
        """Take in chunks that have appeared; -> how many there are now."""
        for number in self.wanted:
            if number not in self.images and _path(self.folder, number).exists():
                self.images[number] = np.load(_path(self.folder, number), mmap_mode="r")
                self.occlusions[number] = np.load(_path(self.folder, number, "occlusions"))
        return len(self.images)

    def exists(self, number: int) -> bool:
        """Whether the chunk `number`, of any process, has been rendered."""
        return _path(self.folder, number).exists()

    def labels(self, numbers: Iterable[int]) -> dict[str, Tensor]:
        """`labels_of` all images of the chunks `numbers`, of any process."""
        keys = [(number * CHUNK + row) // IMAGES_PER_PERSONA for number in numbers for row in range(CHUNK)]
        people = [draw_persona(self.scene.seed, self.scene.group_size, pid) for pid in keys]
        hidden = np.concatenate([np.load(_path(self.folder, number, "occlusions")) for number in numbers])
        return labels_of(people, *_read(hidden))

    def batch(self, size: int, draw: np.random.Generator) -> tuple[Tensor, list[str], dict[str, Tensor]]:
        """-> images uint8 [size, H, W, 3], a freshly drawn caption for each, labels; no two of one look-alike group."""
        taken: dict[int, tuple[int, int]] = {}
        chunks = sorted(self.images)
        while len(taken) < size:
            number, row = chunks[draw.integers(len(chunks))], int(draw.integers(CHUNK))
            pid = (number * CHUNK + row) // IMAGES_PER_PERSONA
            taken.setdefault(pid // self.scene.group_size, (number, row))
        images = np.stack([self.images[number][row] for number, row in taken.values()])
        pids = [(number * CHUNK + row) // IMAGES_PER_PERSONA for number, row in taken.values()]
        personas = [draw_persona(self.scene.seed, self.scene.group_size, pid) for pid in pids]
        occluders, visible = _read(np.stack([self.occlusions[number][row] for number, row in taken.values()]))
        captions = [caption_of(p, draw, o, v) for p, o, v in zip(personas, occluders, visible, strict=True)]
        return torch.from_numpy(images), captions, labels_of(personas, occluders, visible)
