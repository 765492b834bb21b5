"""What every registered method promises the engine, whichever it is."""

import math

import pytest
import torch

from occplug import build_method
from occplug.config import default_config
from occplug.embedding import Embedding
from occplug.registry import METHODS, get, names

TINY = [name for name in names(METHODS) if "clip_vit_tiny" in get(METHODS, name).backbones.values()]


def tiny(name, *options):
    cfg = default_config(name, "clip_vit_tiny", ["backbone.weights", "none", *options])
    return build_method(cfg, 4, 2, pretrained=False).eval()


def distance_at(method, angle):
    """The method's distance of two images all of whose vectors are `angle` apart; masks and visibilities are 1."""
    image = method.embed(torch.rand(1, 3, 128, 64), torch.zeros(1, dtype=torch.long))

    def turned(field, by):
        vectors = torch.zeros_like(field)
        vectors[..., 0], vectors[..., 1] = math.cos(by), math.sin(by)
        return vectors

    fields = {name for name, _ in image.layout()}

    def side(by):
        given = {name: turned(getattr(image, name), by) for name in fields & {"vector", "parts"}}
        given |= {name: torch.ones_like(getattr(image, name)) for name in fields & {"visibility", "mask"}}
        return Embedding(**given)

    return float(method.distance(side(0.0), side(angle)))


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, ()) for name in TINY), ("dpm", ("method.test_mask", False)), ("dpmpp", ("method.test_mask", False))],
)
def test_a_method_says_whether_its_distance_is_squared(name, options):
    """Twice the angle is about twice a plain distance and four times a squared one."""
    method = tiny(name, *options)
    growth = distance_at(method, 0.2) / distance_at(method, 0.1)
    assert growth == pytest.approx(4 if method.squared_distance else 2, rel=0.02)


def test_the_distances_of_the_official_codes():
    squared = {name: tiny(name).squared_distance for name in TINY}
    expected = {"clip_reid": True, "dpl_reid": True, "ag_reid": True, "profd": False, "dpm": False, "dpmpp": False}
    assert expected.items() <= squared.items()
