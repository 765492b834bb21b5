"""Cosines and distances in which an image chooses the dimensions it is compared in: DPM and DPM++."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MASK_PLACES", "masked_cosine", "masked_distance"]

# where the mask acts: on the feature, on the prototypes or on both; before their normalisation or after it
MASK_PLACES = ("feat_pre", "proto_pre", "both_pre", "feat_post", "proto_post", "both_post")
_QUERIES, _GALLERY = 512, 2048  # rows of a block of distances
_EDGE = 1e-5  # cosines are kept this far from 1 and -1, as the official code does
_TINY = 1e-12


def masked_cosine(feature: Tensor, mask: Tensor, prototypes: Tensor, place: str = "proto_pre") -> Tensor:
    r"""Cosine of every feature to every prototype, in the dimensions that the *feature's* mask lets through.

    DPM++ (arXiv 2605.06637), eq. 16 and table IV, with x^ = x / |x| and W one prototype w a row:

        feat_pre   (m f)^ . w^        feat_post  (m f^) . w^
        proto_pre  f^ . (m w)^        proto_post f^ . (m w^)     (the same function as feat_post)
        both_pre   (m f)^ . (m w)^    both_post  (m f^) . (m w^)

    In the "post" forms nothing is normalised after masking, so values are not cosines any more. The masked prototypes
    [B, C, d] are never made: numerator and denominator are one matrix product each.

    Args:
        feature, mask: [B, d]; mask in [0, 1].
        prototypes: [C, d].
        place: one of MASK_PLACES.

    Returns: [B, C] float32; 0 where a masked vector is zero.

    Raises:
        ValueError: another `place`, or shapes that do not fit.
    """
    if place not in MASK_PLACES:
        raise ValueError(f"place is {place!r}; there are: {', '.join(MASK_PLACES)}")
    _check(feature, mask, prototypes)
    with torch.autocast(feature.device.type, enabled=False):
        feature, mask, prototypes = feature.float(), mask.float(), F.normalize(prototypes.float(), eps=_TINY)
        side, _, when = place.partition("_")
        on_feature = mask if side != "proto" else 1.0
        if when == "pre":
            feature = F.normalize(on_feature * feature, eps=_TINY)
        else:
            feature = on_feature * F.normalize(feature, eps=_TINY)
        if side == "feat":
            return feature @ prototypes.T
        products = (feature * mask) @ prototypes.T
        if when == "post":
            return products
        lengths = (mask.square() @ prototypes.square().T).clamp(min=_TINY**2).sqrt()
        return products / lengths


@torch.no_grad()
def masked_distance(q_vector: Tensor, q_mask: Tensor, g_vector: Tensor, place: str = "proto_pre") -> Tensor:
    r"""Angle between each query and the gallery vectors under the query's mask, in radians.

        arccos clip( q^ . (m_q g)^, -1 + 1e-5, 1 - 1e-5 )

    DPM's official test: the query's own vector is not masked, and the gallery's masks are not used. Two matrix
    products a block of queries and gallery; beside the result only a block is held.

    Args:
        q_vector, q_mask: [Q, d]; mask in [0, 1].
        g_vector: [G, d].
        place: another form of :func:`masked_cosine` in place of the official one.

    Returns: [Q, G] float32.

    Raises:
        ValueError: shapes that do not fit (the message gives them), or another `place`.
    """
    _check(q_vector, q_mask, g_vector)
    q_vector, q_mask = q_vector.float(), q_mask.float()
    result = q_vector.new_empty(len(q_vector), len(g_vector))
    for start in range(0, len(g_vector), _GALLERY):
        gallery = g_vector[start : start + _GALLERY]
        for first in range(0, len(q_vector), _QUERIES):
            rows = slice(first, first + _QUERIES)
            cosines = masked_cosine(q_vector[rows], q_mask[rows], gallery, place)
            result[rows, start : start + _GALLERY] = cosines.clamp_(-1 + _EDGE, 1 - _EDGE).acos_()
    return result


def _check(vector: Tensor, mask: Tensor, others: Tensor) -> None:
    shapes = [tuple(x.shape) for x in (vector, mask, others)]
    if vector.ndim != 2 or others.ndim != 2 or mask.shape != vector.shape or vector.shape[1] != others.shape[1]:
        raise ValueError(f"wanted vectors [B, d], masks [B, d] and others [C, d], got {', '.join(map(str, shapes))}")
