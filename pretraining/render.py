"""Which person, camera and occluder an image of pretraining or of its evaluation shows."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from occplug.datasets import synthocc
from occplug.datasets.synthocc import Knobs, Persona

__all__ = ["Scene", "caption_of", "draw_persona", "render"]

WHOLE_CAPTIONS = 0.25  # share of training captions that tell everything, in the benchmark's one form


class Scene(NamedTuple):
    """A world of people under a random camera each."""

    seed: int
    cameras: int
    severity: float
    occluded: float  # share of the images
    person: bool = True  # False: the same scenes without anybody
    group_size: int = 2


@cache
def draw_persona(scene_seed: int, group_size: int, pid: int) -> Persona:
    """Identity `pid` of the world."""
    return synthocc.persona(scene_seed, pid, group_size)


def render(scene: Scene, pid: int, k: int) -> np.ndarray:
    """Image `k` of `pid`, uint8 [128, 64, 3]; camera and occlusion depend on nothing but the arguments."""
    cv2.setNumThreads(1)
    draw = np.random.default_rng([scene.seed, pid, k])
    camid, occluded = int(draw.integers(scene.cameras)), bool(draw.random() < scene.occluded)
    knobs = Knobs(scene.seed, scene.severity, scene.group_size, num_cameras=scene.cameras)
    return synthocc.render(knobs, pid, camid, k, occluded=occluded, persons=scene.person).image


def caption_of(person: Persona, draw: np.random.Generator | None = None) -> str:
    """The whole caption, or with `draw` one for training: mostly shuffled and incomplete."""
    if draw is None or draw.random() < WHOLE_CAPTIONS:
        return synthocc.caption(person)
    return synthocc.training_caption(person, draw)
