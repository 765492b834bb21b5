"""Where a trained model looks in an image: attention rollout, Grad-CAM, and the maps of a method's parts.

Rollout: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", arXiv 2005.00928. Grad-CAM: Selvaraju et al.,
arXiv 1610.02391; the score that it explains is here, as there is no class in a search, the similarity to another image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.backbones.tower import TransformerTower
from occplug.errors import ConfigError
from occplug.method import Method

__all__ = ["KINDS", "best_kind", "grad_cam", "part_maps", "rolled_out", "rollout"]

KINDS = {"parts": "parts", "rollout": "rollout", "gradcam": "Grad-CAM"}


def best_kind(method: Method) -> str:
    """Rollout where the tower has the attention of a class token, Grad-CAM elsewhere."""
    return "rollout" if getattr(_tower(method), "gives_attention", False) else "gradcam"


def _tower(method: Any) -> Any:
    """The image tower, of a hybrid its CLIP; of a stock model torchreid's net."""
    if method.is_stock:
        return method.net
    return getattr(method.backbone, "clip", method.backbone)


def _name(method: Any) -> str:
    tower = _tower(method)
    return f"{type(method).__name__} on {getattr(tower, 'name', '') or type(tower).__name__}"


@torch.no_grad()
def part_maps(method: Any, images: Tensor, camids: Tensor | None) -> tuple[list[str], Tensor]:
    """Names of the parts, and where each looks, [B, R, h, w].

    Raises:
        ConfigError: a method without such maps.
    """
    if not hasattr(method, "attention_maps"):
        raise ConfigError(f"{type(method).__name__} has no attention maps of parts; ProFD has. Take --map rollout")
    return method.attention_maps(images, camids)


@torch.no_grad()
def rollout(method: Any, images: Tensor, camids: Tensor | None) -> Tensor:
    """How much of each patch reaches the feature, through the attention of all blocks: [B, h, w].

    Raises:
        ConfigError: a tower without the attention of a class token.
    """
    tower = _tower(method)
    if not getattr(tower, "gives_attention", False):
        raise ConfigError(
            f"{_name(method)}: the tower gives no attention of a class token, so there is no rollout; --map gradcam "
            "works"
        )
    assert isinstance(tower, TransformerTower)
    blocks = range(1, tower.depth + 1)
    attention = method.backbone(images, camids, attention=blocks).attention
    rows = rolled_out([attention[block] for block in blocks])
    first = tower.num_prefix
    # a model without a class token has the mean of its patches as feature
    row = rows[:, 0] if getattr(tower, "has_class", True) else rows[:, first:].mean(dim=1)
    return row[:, first:].unflatten(1, tower.grid)


def rolled_out(attention: Sequence[Tensor]) -> Tensor:
    """Attention [B, heads, L, L] of all blocks, first block first -> share of each token in each, [B, L, L].

    Of a block the mean of the heads counts, half and half with the token itself, which the residual passes on.
    """
    flow = torch.eye(attention[0].shape[-1])
    for weights in attention:
        mean = weights.float().mean(dim=1)
        flow = (0.5 * mean + 0.5 * torch.eye(mean.shape[-1])) @ flow
    return flow


def grad_cam(method: Any, images: Tensor, camids: Tensor | None, others: Tensor) -> Tensor:
    """What makes `images` similar to other images: [B, h, w], not below 0.

    The map is the last that the vector is made of: the patches that enter the last block of a vision transformer, the
    last stage of a Swin, of other networks the last of the maps with the most channels. Its channels are weighted with
    the mean gradient of the cosine of the image's vector with the other image's, and their sum is cut off at 0.

    Args:
        others: [B, D] vectors of the other images.

    Raises:
        ConfigError: a tower without such a map.
    """
    with torch.enable_grad(), _watched(method) as seen:
        vector = method.features(images, camids).vector
        score = F.cosine_similarity(vector, others).sum()
        for found, to_map in reversed(sorted(seen, key=_channels)):  # of equally many the last
            (gradient,) = torch.autograd.grad(score, found, retain_graph=True, allow_unused=True)
            if gradient is not None:
                weights = to_map(gradient).mean(dim=(2, 3), keepdim=True)
                return F.relu((weights * to_map(found)).sum(dim=1)).detach()
    raise ConfigError(f"{_name(method)}: the tower gives no map of the image, only its feature, so nothing to draw")


Seen = list[tuple[Tensor, Callable[[Tensor], Tensor]]]  # tensors of the forward pass, and how each becomes a map


@contextmanager
def _watched(method: Any) -> Iterator[Seen]:
    """Inside, forward passes leave the maps that the vector may be made of, later ones last."""
    tower, seen = _tower(method), Seen()
    if method.is_stock:
        watch = _hooked(tower, seen)
    elif tower.point_widths:
        watch = _edited(tower, seen)
    else:
        watch = _before_pooling(tower, seen)
    with watch:
        yield seen


def _channels(each: tuple[Tensor, Callable[[Tensor], Tensor]]) -> int:
    found, to_map = each
    return to_map(found).shape[1]


def _as_it_is(x: Tensor) -> Tensor:
    return x


@contextmanager
def _edited(tower: Any, seen: Seen) -> Iterator[None]:
    """The patches at the last point where an edit reaches the feature."""
    point, forward = max(tower.point_widths), tower.forward

    def watching(images, camids=None, *, edits=None, **wanted):
        own = (edits or {}).get(point, _as_it_is)

        def leaf(x: Tensor) -> Tensor:
            found = own(x).detach().requires_grad_()
            seen.append((found, _as_it_is))
            return found

        return forward(images, camids, edits={**(edits or {}), point: leaf}, **wanted)

    with _replaced(tower, "forward", watching):
        yield


@contextmanager
def _before_pooling(tower: Any, seen: Seen) -> Iterator[None]:
    """What one of timm's models pools: [B, C, h, w] or [B, h, w, C]; nothing where it pools tokens."""
    net = tower.visual
    forward = net.forward_features

    def watching(images: Tensor) -> Tensor:
        found = forward(images).detach().requires_grad_()
        if found.ndim == 4:
            channels_last = found.shape[-1] == net.num_features and found.shape[1] != net.num_features
            seen.append((found, _to_front if channels_last else _as_it_is))
        return found

    with _replaced(net, "forward_features", watching):
        yield


def _to_front(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


@contextmanager
def _hooked(net: nn.Module, seen: Seen) -> Iterator[None]:
    """Every map of more than one row and column that a module of `net` gives of the whole image.

    Those of other proportions are of regions that the net has cut out, as HACNN's branches do.
    """
    proportions: list[float] = []

    def start(module, inputs):
        proportions[:] = [inputs[0].shape[2] / inputs[0].shape[3]]

    def keep(module, inputs, output):
        if not isinstance(output, Tensor) or output.ndim != 4 or min(output.shape[2:]) < 2:
            return None
        if not 0.5 < output.shape[2] / output.shape[3] / proportions[0] < 2:
            return None
        seen.append((output, _as_it_is))
        return output.clone()  # what follows may change it in place

    handles = [net.register_forward_pre_hook(start), *(each.register_forward_hook(keep) for each in net.modules())]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _replaced(module: nn.Module, name: str, function: Callable) -> Iterator[None]:
    """Inside, `module` has `function` for the method called `name`."""
    setattr(module, name, function)
    try:
        yield
    finally:
        delattr(module, name)
