"""Confidence maps of keypoints and limbs from a detected pose and person mask, in the channels of PifPaf's files."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from occplug.utils.body_parts import KEYPOINTS, LIMBS, NUM_CHANNELS

__all__ = ["Person", "confidence_maps"]

# How far a body part reaches around its keypoint or limb, in heights of the person: there the confidence is half.
_HEAD, _SHOULDER, _ARM, _HAND, _TORSO, _LEG = 0.07, 0.12, 0.07, 0.06, 0.12, 0.08
_RADII = [
    *[_HEAD] * 5, *[_SHOULDER] * 2, *[_ARM] * 2, *[_HAND] * 2, *[_TORSO] * 2, *[_LEG] * 4,
    *[_LEG] * 4, _TORSO, _TORSO, _TORSO, _SHOULDER, *[_ARM] * 2, *[_HAND] * 2, *[_HEAD] * 7,
]  # fmt: skip


class Person(NamedTuple):
    """One detected person.

    Attributes:
        keypoints: float [17, 3]: x and y in pixels, confidence in [0, 1].
        mask: float [H, W] in [0, 1], of the whole image.
        height: of the person in pixels.
    """

    keypoints: Tensor
    mask: Tensor
    height: float


def confidence_maps(person: Person | None, size: tuple[int, int]) -> np.ndarray:
    """float32 [36, h, w] over the whole image: Gaussians at keypoints, capsules along limbs, times the person's mask.

    A limb is as sure as its less sure end. Without a person all is 0.

    Args:
        size: (h, w) of the maps.
    """
    if person is None:
        return np.zeros((NUM_CHANNELS, *size), np.float32)
    points, sure = person.keypoints[:, :2], person.keypoints[:, 2]
    ends = torch.tensor([*((k, k) for k in range(len(KEYPOINTS))), *LIMBS])  # [36, 2]; a keypoint is a limb of length 0
    distance = _distances(_centres(person.mask.shape, size), points[ends[:, 0]], points[ends[:, 1]])
    radius = torch.tensor(_RADII)[:, None, None] * person.height
    maps = sure[ends].amin(dim=1)[:, None, None] * torch.exp2(-((distance / radius) ** 2))
    return (maps * F.adaptive_avg_pool2d(person.mask[None], size)).numpy().astype(np.float32)


def _centres(image: torch.Size, size: tuple[int, int]) -> Tensor:
    """[h, w, 2]: x and y of the cells' centres in pixels of the image (H, W)."""
    y, x = ((torch.arange(cells) + 0.5) * pixels / cells - 0.5 for cells, pixels in zip(size, image))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def _distances(places: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """[N, h, w] distances of `places` [h, w, 2] to the segments from `start` to `end`, [N, 2] each."""
    along = (end - start)[:, None, None]  # [N, 1, 1, 2]
    offset = places - start[:, None, None]  # [N, h, w, 2]
    length = along.square().sum(-1).clamp_min(1e-9)
    share = ((offset * along).sum(-1) / length).clamp(0, 1)  # [N, h, w]
    return (offset - share[..., None] * along).norm(dim=-1)
