"""Batch entries beyond image, person and camera, for the methods that ask for them (`Method.extras`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from occplug.errors import ConfigError
from occplug.masks import PartMasks
from occplug.registry import TRANSFORMS, get, model_class, names
from occplug.transforms import Pipeline, RawBatch

__all__ = ["Extras", "finished", "wanted_extras"]

_OPAQUE = 128  # from this alpha on, an occluder hides the part behind it
_NO_OCCLUDER = -1


def wanted_extras(cfg) -> tuple[str, ...]:
    """The entries that the model of `cfg` asks for.

    Raises:
        ConfigError: nobody provides one of them; names the key or the transforms that would.
    """
    model = cfg.model.name
    wanted = model_class(model).extras(cfg)
    given = {entry for name in cfg.data.transforms for entry in _provided(name)}
    for entry in wanted:
        if entry == "masks":
            if cfg.masks.source == "none":
                raise ConfigError(
                    f"{model} needs part masks, but masks.source is 'none'; set it to files, stripes or synthocc"
                )
        elif entry not in given:
            providers = [name for name in names(TRANSFORMS) if entry in _provided(name)]
            cure = f"add {' or '.join(providers)} to data.transforms" if providers else "no registered transform does"
            raise ConfigError(f"{model} needs the batch entry {entry!r}, which none of data.transforms gives; {cure}")
    return tuple(wanted)


def _provided(transform: str) -> Sequence[str]:
    return getattr(get(TRANSFORMS, transform), "provides", ())


class Extras:
    """Carries the wanted entries from the pictures to the batch.

    Args:
        wanted: names of entries: "masks", or what transforms put into a sample ("occlusion", "occluder"). An image that
            none of them has touched has zeros and -1 there.
        masks: where part masks come from; None if they are not wanted.
    """

    def __init__(self, wanted: Sequence[str], masks: PartMasks | None):
        self.wanted, self.masks = tuple(wanted), masks

    def __bool__(self) -> bool:
        return bool(self.wanted)

    def sample(self, picture: Image.Image, pipeline: Pipeline) -> dict:
        """{"img": uint8 [3, H, W], and what `batch` makes the entries of}."""
        given = {"img": picture} if self.masks is None else {"img": picture, "places": self.masks.places}
        sample = pipeline.per_image.sample(given)
        if "places" in sample and "occlusion" in sample:  # what is hidden is no part of the person
            hidden = sample["occlusion"].as_subclass(Tensor) >= _OPAQUE
            sample["places"] = sample["places"].as_subclass(Tensor).masked_fill(hidden, 0)
        sample.setdefault("occlusion", torch.zeros(1, *sample["img"].shape[-2:], dtype=torch.uint8))
        sample.setdefault("occluder", _NO_OCCLUDER)
        return {key: sample[key] for key in {"img", "places", *self.wanted} & sample.keys()}

    def batch(
        self, rows: Sequence[dict], pipeline: Pipeline, kept: Sequence[int] | None = None, defers: bool = False
    ) -> dict:
        """The images and wanted entries of `rows`, which have "impath" and "source", the number of the data set.

        Args:
            kept: numbers of the rows whose images and entries are wanted, after all were transformed; None: all.
            defers: images come as a `RawBatch`, to be finished on the device.
        """
        chosen = list(rows) if kept is None else [rows[number] for number in kept]
        images = torch.stack([row["img"] for row in rows])
        entries = {name: _stacked([row[name] for row in chosen]) for name in self.wanted if name != "masks"}
        if self.masks is None:
            return {"img": finished(images, pipeline, kept, defers), **entries}
        places = tv_tensors.Mask(_stacked([row["places"] for row in rows]))
        result: Tensor | RawBatch
        if defers:
            result, moved = pipeline.per_batch.deferred(images, places, kept)
            assert moved is not None  # or no masks had been given
        else:
            result, moved = pipeline.per_batch.with_masks(images, places)
            result = result if kept is None else result[kept]
        moved = moved if kept is None else tv_tensors.Mask(moved[kept])
        labels = self.masks.labels([(row["impath"], row["source"]) for row in chosen], moved)
        return {"img": result, **entries, "masks": labels}


def finished(images: Tensor, pipeline: Pipeline, kept: Sequence[int] | None, defers: bool) -> Tensor | RawBatch:
    """uint8 `images` [B, 3, H, W] -> those `kept` (None: all) after the batch transforms, or what makes them of it."""
    if defers:
        return pipeline.per_batch.deferred(images, kept=kept)[0]
    result = pipeline.per_batch(images)
    return result if kept is None else result[kept]


def _stacked(values: list) -> Tensor:
    if isinstance(values[0], Tensor):
        return torch.stack([value.as_subclass(Tensor) for value in values])
    return torch.tensor(values)
