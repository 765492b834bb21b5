"""Part masks made worse on purpose, to measure what wrong masks cost; the same for an image every time."""

from __future__ import annotations

import math
import os
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["NOISE", "degraded"]


def degraded(maps: Tensor, noise: str, strength: float, image: str) -> Tensor:
    """`maps` [K, h, w] of the parts of `image` (its path), with noise of a kind.

    Args:
        noise: "eroded": every part loses `strength` * h pixels all around (not at the frame). "shifted": all parts move
            by `strength` * h pixels in a random direction. "swapped": a share `strength` of the parts change places in
            pairs.
    """
    name = "/".join(image.replace("\\", "/").split("/")[-2:])  # the same wherever the data set lies
    return NOISE[noise](maps, strength, np.random.default_rng(zlib.crc32(os.fsencode(name))))


def _eroded(maps: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    radius = round(strength * maps.shape[1])
    return -F.max_pool2d(-maps[None], 2 * radius + 1, stride=1, padding=radius)[0]


def _shifted(maps: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    angle = rng.uniform(0, 2 * math.pi)
    height, width = maps.shape[1:]
    down, right = (round(strength * height * part(angle)) for part in (math.sin, math.cos))
    moved = torch.zeros_like(maps)
    kept = [(max(0, by), max(0, min(size, size + by)), by) for by, size in ((down, height), (right, width))]
    (top, bottom, down), (left, end, right) = kept
    if top < bottom and left < end:
        moved[:, top:bottom, left:end] = maps[:, top - down : bottom - down, left - right : end - right]
    return moved


def _swapped(maps: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    parts = len(maps)
    pairs = int(strength * parts / 2 + rng.uniform())  # on average strength * parts / 2
    order, shuffled = np.arange(parts), rng.permutation(parts)
    for one, other in shuffled[: 2 * min(pairs, parts // 2)].reshape(-1, 2):
        order[[one, other]] = order[[other, one]]
    return maps[torch.from_numpy(order)]


NOISE = {"eroded": _eroded, "shifted": _shifted, "swapped": _swapped}
