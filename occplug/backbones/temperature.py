"""Whether a CLIP's raw products of image and text are at the temperature it was trained at.

Methods use `image @ text.T` as it comes, as the official codes do. That is right where the norms of both features
multiply to about the logit scale: OpenAI's are about 10 and 10, with a logit scale of 100. Elsewhere every loss between
images and texts is too sharp or too flat, and nothing fails.
"""

from __future__ import annotations

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.backbones.tower import CLIPTower

__all__ = ["check_temperature", "product_of_norms"]

_log = logging.getLogger(__name__)
FAR = 3.0  # times too sharp or too flat, from which on a warning says so
PERSON = (49406, 320, 1125, 539, 320, 2533, 269, 49407)  # "a photo of a person." in CLIP's tokens
PROBES = 4


@torch.no_grad()
def product_of_norms(tower: CLIPTower, text: nn.Module, table: Tensor) -> float:
    """Mean norm of projected image features times the norm of a text feature, by a sentence and smooth noise.

    Norms depend little on what is shown, since a layer norm stands before both projections.

    Args:
        tower: a plain CLIP image tower.
        text: the text tower of the same CLIP.
        table: token embeddings [49408, W].
    """
    draw = torch.Generator().manual_seed(0)
    pixels = F.interpolate(torch.rand(PROBES, 3, 8, 4, generator=draw), tower.image_size, mode="bilinear")
    mean, std = (torch.tensor(v)[:, None, None] for v in (tower.mean, tower.std))
    modes = [(net, net.training) for net in (tower, text)]
    try:
        images = tower.eval()((pixels - mean) / std).projected  # [PROBES, E]
        feature = text.eval()(table[list(PERSON)].float()[None], len(PERSON) - 1)  # [1, E]
    finally:
        for net, training in modes:
            net.train(training)
    return (images.norm(dim=1).mean() * feature.norm()).item()


def check_temperature(tower: CLIPTower, text: nn.Module, state: dict[str, Tensor], where: str, table: str) -> None:
    """Log a warning where raw products of the loaded towers are far from the logit scale of `state`.

    Args:
        state: OpenAI's layout; without `logit_scale` and the token table nothing can be said.
        where: what to call the weights.
        table: name of the token table in `state`.
    """
    if "logit_scale" not in state or table not in state:
        return
    scale, product = state["logit_scale"].float().exp().item(), product_of_norms(tower, text, state[table])
    _log.debug("%s: norms of image and text multiply to %.1f, logit scale %.1f", where, product, scale)
    if not scale / FAR < product < scale * FAR:
        _log.warning(
            "%s: norms of image and text features multiply to %.3g, but the logit scale is %.3g: losses between "
            "images and texts are %.1f times too %s; scale visual.proj (attnpool.c_proj) or text_projection by %.3g",
            where, product, scale, max(product / scale, scale / product), "sharp" if product > scale else "flat",
            scale / product,
        )  # fmt: skip
