"""Released LSNet checkpoints (jameslahm/lsnet), distilled ones included: the backbone without its ImageNet head."""

from __future__ import annotations

from occplug.backbones.lsnet import LSNet
from occplug.backbones.lsnet_weights import fit_lsnet, recognise_lsnet
from occplug.errors import ConfigError
from occplug.registry import BACKBONES, build
from occplug.utils.tensors import read_tensors

__all__ = ["load"]


def load(checkpoint, image_size: tuple[int, int], num_cameras: int | None, neck: str) -> LSNet:
    """The LSNet of a `.pth` file or state dict in eval mode; `.forward_features(images)` gives its four stages.

    The size (T, S, B) is read from the tensors. Heads and index tables are dropped, named in the log.

    Args:
        image_size, num_cameras: not used; one LSNet takes images of any size and knows no cameras.
        neck: must be "before"; a backbone has no neck.

    Raises:
        CheckpointError: unreadable, fused, of no known size, or every name that is wrongly shaped, missing or unknown.
        ConfigError: `neck` is not "before".
    """
    if neck != "before":
        raise ConfigError(f"neck is {neck!r}, but LSNet is a backbone without neck; use 'before'")
    state, where = read_tensors(checkpoint)
    name = recognise_lsnet(state, where)
    net = build(BACKBONES, name)
    fit_lsnet(state, where, net, name)
    return net.eval()
