"""Rendered training images on disk, in chunks that appear while training already runs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from occplug.datasets.synthocc import ATTRIBUTES
from pretraining.render import Scene, caption_of, draw_persona, render
from pretraining.texts import PHRASES

__all__ = ["CHUNK", "Pool", "labels_of", "render_chunks", "shares_of"]

CHUNK = 512  # images a file; 12.6 MB
IMAGES_PER_PERSONA = 2


def _path(folder: Path, number: int) -> Path:
    return folder / f"images_{number:05d}.npy"


def render_chunks(folder: Path, numbers: list[int], scene: Scene) -> None:
    """Write the chunks `numbers` that are not there yet; each appears whole or not at all."""
    for number in numbers:
        path = _path(folder, number)
        if path.exists():
            continue
        first = number * CHUNK
        images = np.stack([render(scene, *divmod(i, IMAGES_PER_PERSONA)) for i in range(first, first + CHUNK)])
        temporary = path.with_suffix(f".{os.getpid()}.part")
        with open(temporary, "wb") as file:
            np.save(file, images)
        temporary.replace(path)


def labels_of(personas: list) -> dict[str, Tensor]:
    """Attribute value numbers [n] per attribute of PHRASES; hair colour is -100 where no hair shows."""
    labels = {n: torch.tensor([ATTRIBUTES[n].index(getattr(p, n)) for p in personas]) for n in PHRASES}
    hidden = torch.tensor([p.hair == "bald" or p.hat != "none" for p in personas])
    return labels | {"hair_color": labels["hair_color"].masked_fill(hidden, -100)}


def shares_of(labels: dict[str, Tensor]) -> dict[str, Tensor]:
    """Per attribute the share of each value among the labels that are not hidden."""
    counts = {n: label[label >= 0].bincount(minlength=len(ATTRIBUTES[n])) for n, label in labels.items()}
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

    def refresh(self) -> int:
        """Take in chunks that have appeared; -> how many there are now."""
        for number in self.wanted:
            if number not in self.images and _path(self.folder, number).exists():
                self.images[number] = np.load(_path(self.folder, number), mmap_mode="r")
        return len(self.images)

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
        return torch.from_numpy(images), [caption_of(p, draw) for p in personas], labels_of(personas)
