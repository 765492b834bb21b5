"""From a decoded picture to a normalised batch.

Transforms act at three levels: "pil" on the resized PIL picture (with `takes_pixels` also on its pixels, an array),
"image" on its pixels as a uint8 tensor [3, H, W], "batch" on the normalised float batch. Pixels stay uint8 until the
batch is put together, because more than half of the usual cost is float work per image. At the first two levels
transforms get the whole sample, so that torchvision moves every `tv_tensors.Mask` in it exactly as the image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from occplug.errors import ConfigError
from occplug.registry import TRANSFORMS, get
from occplug.transforms.deferred import RawBatch
from occplug.transforms.resampling import is_compiled, resized_picture
from occplug.utils import compiled

__all__ = ["PerBatch", "PerImage", "Pipeline", "Resize", "as_picture", "build_pipeline", "compose_for_stock"]

LEVELS = ("pil", "image", "batch")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Resize(v2.Transform):
    """To a fixed size; for masks the nearest pixel's.

    Args:
        height, width: of the result, in pixels.
        interpolation: "nearest", "bilinear" or "bicubic", the latter two antialiased.
        kind: "pil": Pillow's resize. "tensor": torchvision's of uint8 tensors, two to four times as fast, whose pixels
            differ by a few levels of 255. Where they are the same anyway, both kinds take it: a bilinear enlargement
            by powers of two has weights that both compute without rounding.
    """

    def __init__(self, height: int, width: int, interpolation: str = "bilinear", kind: str = "pil"):
        super().__init__()
        self.height, self.width, self.interpolation, self.kind = height, width, interpolation, kind

    def transform(self, inpt, params: dict):
        """`inpt`, a PIL picture or a mask [..., H, W], in the new size."""
        size = [self.height, self.width]
        if isinstance(inpt, Tensor):
            return v2.functional.resize(inpt, size, InterpolationMode.NEAREST)
        return as_picture(self.resized(inpt))

    def resized(self, picture: Image.Image | np.ndarray) -> Image.Image | np.ndarray:
        """`picture`, or its pixels uint8 [H, W, 3], in the new size; as a picture or as pixels, whichever takes less
        time."""
        if isinstance(picture, np.ndarray):
            size, is_rgb = (picture.shape[1], picture.shape[0]), True
        else:
            size, is_rgb = picture.size, picture.mode == "RGB"
        if size == (self.width, self.height):
            return picture
        if is_rgb and self._takes_tensor(size) and not (self.kind == "pil" and is_compiled()):
            pixels = torch.from_numpy(np.require(picture, requirements="W")).permute(2, 0, 1)
            kind = InterpolationMode(self.interpolation)
            resized = v2.functional.resize_image(pixels, [self.height, self.width], kind, antialias=True)
            return resized.permute(1, 2, 0).numpy()
        return resized_picture(picture, self.height, self.width, self.interpolation)

    def _takes_tensor(self, size: tuple[int, int]) -> bool:
        factors = ((self.width, size[0]), (self.height, size[1]))
        return (self.kind == "tensor" and self.interpolation != "nearest") or (
            self.interpolation == "bilinear" and all(new in (old, 2 * old, 4 * old) for new, old in factors)
        )


def as_picture(image: Image.Image | np.ndarray) -> Image.Image:
    """`image`, where it is pixels uint8 [H, W, 3] as a picture."""
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


def _planes(image: Image.Image | np.ndarray) -> Tensor:
    """RGB `image` -> its pixels as uint8 [3, H, W], contiguous."""
    import cv2  # takes long to import, and splits channels four times as fast as numpy and torch

    pixels = np.asarray(image)
    planes = np.empty((3, *pixels.shape[:2]), np.uint8)
    cv2.split(pixels, list(planes))
    return torch.from_numpy(planes)


def _apply(transform: v2.Transform, image):
    """`transform(image)`; without torchvision's search for images in a sample, which takes longer than a flip."""
    if type(transform).forward is not v2.Transform.forward:
        return transform(image)
    return transform.transform(image, transform.make_params([image]))


class PerImage:
    """The part of a pipeline that sees one picture: resize, then the transforms of the first two levels.

    Args:
        height, width: in pixels.
        interpolation, kind: of the resize, as for :class:`Resize`.
        pil, image: transforms of these levels, in order.
    """

    def __init__(
        self, height: int, width: int, interpolation: str, pil: Sequence = (), image: Sequence = (), kind: str = "pil"
    ):
        self.resize = Resize(height, width, interpolation, kind)
        self.pil, self.image = list(pil), list(image)

    def __call__(self, picture: Image.Image | np.ndarray) -> Tensor:
        """RGB `picture`, or its pixels uint8 [H, W, 3], -> uint8 [3, height, width]; what `sample` gives for it alone.

        Between the resize and the planes they stay what they are as long
        as transforms state `takes_pixels`; PIL copies them back and forth.
        """
        current = self.resize.resized(picture)
        for transform in self.pil:
            takes_pixels = getattr(transform, "takes_pixels", False)
            current = _apply(transform, np.asarray(current) if takes_pixels else as_picture(current))
        image = _planes(current)
        for transform in self.image:
            if hasattr(transform, "in_place"):  # spares it torchvision's wrapping, and a copy
                image = transform.in_place(image)
            else:
                image = _apply(transform, tv_tensors.Image(image)).as_subclass(Tensor)
        return image

    def sample(self, sample: dict) -> dict:
        """{"img": RGB picture, "mask": `tv_tensors.Mask` [..., h, w], ...} -> the same keys, transformed alike.

        A mask has the picture's size before, or the output's, and [..., height, width] after, resized by nearest pixel.
        Entries that are neither image nor mask are left as they are.
        """
        for transform in (self.resize, *self.pil):
            sample = transform(sample)
        sample = {**sample, "img": tv_tensors.Image(_planes(sample["img"]))}
        for transform in self.image:
            sample = transform(sample)
        return {**sample, "img": sample["img"].as_subclass(Tensor)}


@functools.lru_cache
def _scale_and_shift(mean: tuple, std: tuple, device: torch.device) -> tuple[Tensor, Tensor]:
    """What a pixel is multiplied by, and what is taken off then, [3, 1, 1] each.

    Kept for the process, since a batch of a loading process brings its pipeline with it, and a copy to a GPU waits.
    """
    m, s = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (mean, std))
    return (1 / (255 * s)).to(device, torch.float32), (m / s).to(device, torch.float32)


class PerBatch:
    """The part of a pipeline that sees a batch: conversion, normalisation, then the transforms of the last level.

    Args:
        mean, std: of pixels in [0, 1], three numbers each.
        transforms: of level "batch", in order.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], transforms: Sequence = ()):
        self.mean, self.std = tuple(mean), tuple(std)
        self.transforms = list(transforms)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [..., 3, H, W] -> float32 of the same shape, (pixel / 255 - mean) / std up to rounding, transformed."""
        output = self._normalised(images)
        for transform in self.transforms:
            output = transform(output)
        return output

    @property
    def can_be_deferred(self) -> bool:
        """Whether every transform can draw here and fill in elsewhere: it has `pack` and `finish`."""
        return all(hasattr(transform, "pack") and hasattr(transform, "finish") for transform in self.transforms)

    def deferred(
        self, images: Tensor, masks: tv_tensors.Mask | None = None, kept: Sequence[int] | None = None
    ) -> tuple[RawBatch, tv_tensors.Mask | None]:
        """What a call (or `with_masks`) draws for `images`, to be finished on the device; and the finished masks.

        Args:
            kept: numbers of the images that are wanted, after draws for all; None: all.
        """
        left = []
        for transform in self.transforms:
            params = transform.make_params([images])
            masks = None if masks is None else transform.transform(masks, params)
            left.append((transform, transform.pack(params, images.shape, kept)))
        return RawBatch(images if kept is None else images[kept], self._normalised, left), masks

    def _normalised(self, images: Tensor) -> Tensor:
        scale, shift = _scale_and_shift(self.mean, self.std, images.device)
        if images.device.type != "cpu":
            return images.to(torch.float32).mul_(scale).sub_(shift)
        output = torch.empty(images.shape, device=images.device)
        # one image at a time, because it stays in the cache from one operation to the next
        for image, pixels in zip(output.view(-1, *images.shape[-3:]), images.reshape(-1, *images.shape[-3:])):
            image.copy_(pixels).mul_(scale).sub_(shift)
        return output

    def with_masks(self, images: Tensor, masks: tv_tensors.Mask) -> tuple[Tensor, tv_tensors.Mask]:
        """As a call, and `masks` [..., C, H, W], one for each image, moved and erased with them."""
        output = self._normalised(images)
        for transform in self.transforms:
            output, masks = transform(output, masks)
        return output, masks


class Pipeline(NamedTuple):
    """Both parts; called with one picture, they run one after the other, as torchreid's own data manager needs it."""

    per_image: PerImage
    per_batch: PerBatch

    def __call__(self, picture: Image.Image) -> Tensor:
        """RGB `picture` -> normalised float32 [3, H, W]."""
        return self.per_batch(self.per_image(picture))

    def bind(self, items: Sequence, read: Callable) -> None:
        """Hand the training images to the transforms that cut from them, those with a method `bind`.

        Where there are many, :meth:`prepare` is called, too.

        Args:
            items: rows (path, ...).   read: path -> RGB picture.
        """
        for transform in self.transforms:
            if hasattr(transform, "bind"):
                transform.bind(items, read)
        if len(items) >= compiled.WORTH:
            self.prepare()

    def prepare(self) -> None:
        """Let the transforms with a method `prepare` do ahead what they can do, before loading processes are forked."""
        for transform in self.transforms:
            if hasattr(transform, "prepare"):
                transform.prepare(self.per_image.resize.height, self.per_image.resize.width)

    def summaries(self) -> list[str]:
        """What the transforms with a method `summary` have to say about the images so far, if they saw any."""
        lines = [transform.summary() for transform in self.transforms if hasattr(transform, "summary")]
        return [line for line in lines if line]

    @property
    def transforms(self) -> list[Callable]:
        """All of them, in order."""
        return [*self.per_image.pil, *self.per_image.image, *self.per_batch.transforms]

    @property
    def is_random(self) -> bool:
        """Whether any transform may draw random numbers."""
        return bool(self.transforms)


def build_pipeline(
    names: Sequence[str],
    height: int,
    width: int,
    mean: Sequence[float],
    std: Sequence[float],
    options: dict[str, dict] | None = None,
    interpolation: str = "bilinear",
    resize: str = "pil",
) -> Pipeline:
    """The pipeline of the registered transforms `names`, whose order is kept within a level.

    Args:
        height, width: of the output, in pixels.
        mean, std: of pixels in [0, 1], three numbers each.
        options: name -> keyword arguments of that transform (its keys under `augment`).
        interpolation, resize: of the resize, and its kind (:class:`Resize`).

    Raises:
        ConfigError: unknown name, or a transform that does not state its level.
    """
    options = options or {}
    context = {"height": height, "width": width, "mean": mean, "std": std, "inplace": True}
    levels: dict[str, list[Callable]] = {level: [] for level in LEVELS}
    for name in names:
        entry = get(TRANSFORMS, name)
        level = getattr(entry, "level", None)
        if level not in LEVELS:
            raise ConfigError(f"the transform {name!r} has level {level!r}; its class must state one of {LEVELS}")
        given = {key: context[key] for key in getattr(entry, "context", ())}
        levels[level].append(entry(**given, **options.get(name, {})))
    per_image = PerImage(height, width, interpolation, levels["pil"], levels["image"], resize)
    return Pipeline(per_image, PerBatch(mean, std, levels["batch"]))


def compose_for_stock(
    names: Sequence[str],
    height: int,
    width: int,
    norm_mean: Sequence[float] | None = None,
    norm_std: Sequence[float] | None = None,
) -> tuple[Pipeline, Pipeline]:
    """(training, test) transforms for torchreid's `ImageDataManager`: PIL picture -> normalised float32 [3, H, W].

    Transforms have their default options, and the resize is bilinear in training too, as torchreid's. Constants that
    are None are ImageNet's. Raises ConfigError for an unknown name.
    """
    if norm_mean is None or norm_std is None:
        norm_mean, norm_std = IMAGENET_MEAN, IMAGENET_STD
    size_and_constants = (height, width, norm_mean, norm_std)
    return build_pipeline(names, *size_and_constants), build_pipeline([], *size_and_constants)
