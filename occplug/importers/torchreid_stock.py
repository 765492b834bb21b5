"""Checkpoints of torchreid's own models, as torchreid saves them and as its model zoo offers them."""

from __future__ import annotations

import os

import torch

from occplug.errors import ConfigError
from occplug.importers.report import load_renamed, most_common
from occplug.methods._stock import StockModel
from occplug.torchreid_host import build_stock_model, load_stock_checkpoint
from occplug.utils.tensors import read_tensors

__all__ = ["StockModel", "load"]


def load(checkpoint, image_size: tuple[int, int], num_cameras: int | None, neck: str, model: str) -> StockModel:
    """The stock model `model` (e.g. "osnet_x1_0") with the weights of `checkpoint`, in eval mode.

    `embed` gives the model's eval-mode output, float32, not normalised. The number of identities is read from the file.

    Args:
        image_size, num_cameras: not used.
        neck: must be "before"; which feature a stock model tests is fixed.

    Raises:
        CheckpointError: unreadable, or every name that is wrongly shaped, missing or unknown.
        ConfigError: torchreid has no such model, or `neck` is not "before".
    """
    if neck != "before":
        raise ConfigError(f"neck is {neck!r}, but stock torchreid models have no such choice; use 'before'")
    if isinstance(checkpoint, str | os.PathLike):
        state, name = read_tensors(load_stock_checkpoint(checkpoint), str(checkpoint))
    else:
        state, name = read_tensors(checkpoint)
    classes = most_common(state, _class_tensors(model)) or 1
    net = build_stock_model(model, classes, "softmax", pretrained=False, use_gpu=False)
    load_renamed(net, state, [("", "")], name, f"torchreid's {model}")
    return StockModel(net, classes).eval()


def _class_tensors(model: str) -> list[str]:
    """Names of the tensors whose first axis is the number of identities."""
    with torch.device("meta"):
        few, more = (build_stock_model(model, n, "softmax", False, False).state_dict() for n in (2, 3))
    return [name for name in few if few[name].shape != more[name].shape]
