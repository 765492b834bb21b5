"""What the processes of a run compare before it starts: config, files, code and initial weights."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from torch import nn

from occplug.config.files import flatten
from occplug.data.manager import DataManager
from occplug.distributed import current_ranks, tensor_digests
from occplug.masks import FileMasks, RenderedMasks
from occplug.runs.record import sources

__all__ = ["check_same_start", "check_same_weights"]

_LOCAL = ("data.root", "data.save_dir", "data.workers", "data.cache", "masks.root", "masks.cache", "run.threads")
_CURE = "copy data set, masks, weights, config and code to every machine as they are on the first"


def check_same_start(cfg, data: DataManager) -> None:
    """Raise DataError if the processes of a run have other images, masks, keys, code or versions.

    Of files names and sizes are compared. Folders may differ.
    """
    ranks = current_ranks()
    if ranks.world == 1:
        return
    values = {key: value for key, value in flatten(cfg) if key not in _LOCAL}
    values |= {f"the fingerprint of {name}": summary["fingerprint"] for name, summary in data.summary().items()}
    values |= {"occplug's code": sources(), "torch": torch.__version__}
    values |= {f"the size of {name}": _size(path) for name, path in _files(data)}
    ranks.check_same(values, _CURE)


def check_same_weights(model: nn.Module) -> None:
    """Raise DataError if the processes of a run start from other weights, which have the same names in `model`."""
    ranks = current_ranks()
    if ranks.world > 1:
        digests = tensor_digests(model.state_dict())
        ranks.check_same({f"the digest of the initial {name}": value for name, value in digests.items()}, _CURE)


def _files(data: DataManager) -> Iterator[tuple[str, str]]:
    """Each image and mask file of `data` with its name, which is the same in another folder."""
    for number, (name, dataset) in enumerate(data.sets.items()):
        images = [str(row[0]) for side in (dataset.train, dataset.query, dataset.gallery) for row in side]
        below = {image: f"{name}/{os.path.relpath(image, dataset.dataset_dir)}" for image in images}
        yield from ((named, image) for image, named in below.items())
        if data.extras and data.extras.masks and number < len(data.sources):
            masks = _mask_files(data.extras.masks.sources[number], [str(row[0]) for row in dataset.train])
            yield from ((f"the mask of {below[image]}", mask) for image, mask in masks.items())


def _mask_files(source, images: list[str]) -> dict[str, str]:
    """Image -> the file that `source` reads its parts from; empty where they are computed."""
    source = getattr(source, "source", source)  # without its noise
    if isinstance(source, FileMasks):
        return {image: file.path for image, file in source.files.items()}
    return {image: source.path_of(image) for image in images} if isinstance(source, RenderedMasks) else {}


def _size(path: str) -> int | None:
    return os.path.getsize(path) if os.path.exists(path) else None
