"""Which person, camera and occluder an image of pretraining or of its evaluation shows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np

from occplug.datasets import synthocc
from occplug.datasets.synthocc import CATEGORIES, Knobs, Persona, Rendered

__all__ = ["OCCLUDERS", "Scene", "caption_of", "draw_persona", "render"]

OCCLUDERS = ("none", *CATEGORIES)  # what may stand in front, by number

UNNAMED_OCCLUDERS = 0.2  # share of occluded captions that only say "an object"
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


def render(scene: Scene, pid: int, k: int) -> Rendered:
    """Image `k` of `pid`, uint8 [128, 64, 3], and what hides it; all depends on nothing but the arguments."""
    cv2.setNumThreads(1)
    draw = np.random.default_rng([scene.seed, pid, k])
    camid, occluded = int(draw.integers(scene.cameras)), bool(draw.random() < scene.occluded)
    knobs = Knobs(scene.seed, scene.severity, scene.group_size, num_cameras=scene.cameras)
    return synthocc.render(knobs, pid, camid, k, occluded=occluded, persons=scene.person)


def caption_of(
    person: Persona,
    draw: np.random.Generator | None = None,
    occluder: str = "none",
    visibility: Mapping[str, float] | None = None,
) -> str:
    """The whole caption, or with `draw` one for training: mostly shuffled and incomplete.

    Args:
        occluder: one of OCCLUDERS; it is named, or sometimes called "an object".
        visibility: share of each of the eight groups of parts that shows; shuffled captions leave out what does not.
    """
    if draw is None:
        return synthocc.caption(person, occluder)
    if occluder != "none" and draw.random() < UNNAMED_OCCLUDERS:
        occluder = "object"
    if draw.random() < WHOLE_CAPTIONS:
        return synthocc.caption(person, occluder)
    return synthocc.training_caption(person, draw, visibility, occluder)
