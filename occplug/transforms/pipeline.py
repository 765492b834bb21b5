"""From a decoded picture to a normalised batch, in three levels.

"pil" transforms see the picture, "image" transforms the resized uint8 tensor [3, H, W] (or a dict that holds it beside
a `tv_tensors.Mask`, which then moves along), "batch" transforms the normalised float batch. Pixels stay uint8 until the
batch is put together: more than half of the usual cost is float work per image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from occplug.errors import ConfigError
from occplug.registry import TRANSFORMS, get

__all__ = ["Pipeline", "build_pipeline", "compose_for_stock"]


class Pipeline:
    """Per-image and per-batch part of a list of transforms.

    Args:
        names: registered transforms, in order; the order is kept within a level.
        height, width: output size in pixels.
        mean, std: of pixels in [0, 1], three numbers each.
        options: name -> keyword arguments of that transform.
        interpolation: of the resize, "bilinear" or "bicubic" (PIL's, with antialiasing).
    """

    def __init__(self, names, height, width, mean, std, options=None, interpolation="bilinear"):
        options = options or {}
        sizes = {"random_crop": {"height": height, "width": width}}
        built = [get(TRANSFORMS, n)(**{**sizes.get(n, {}), **options.get(n, {})}) for n in names]
        at = {level: [t for t in built if t.level == level] for level in ("pil", "image", "batch")}
        self.pil = at["pil"]
        self.resize = v2.Resize((height, width), InterpolationMode(interpolation))
        self.image = at["image"]
        self.batch = at["batch"]
        # 255 is folded into the constants: one multiplication and one subtraction per pixel
        self.scale = (1 / (255 * torch.tensor(std))).view(3, 1, 1)
        self.shift = (torch.tensor(mean) / torch.tensor(std)).view(3, 1, 1)

    def per_image(self, picture, mask=None):
        """PIL picture -> uint8 [3, H, W]; with a mask (PIL or tensor) also the mask, moved alike."""
        for transform in self.pil:
            picture = transform(picture)
        image = tv_tensors.Image(v2.functional.pil_to_tensor(self.resize(picture)))
        sample = {"img": image} if mask is None else {"img": image, "mask": tv_tensors.Mask(mask)}
        for transform in self.image:
            sample = transform(sample)
        image = sample["img"].as_subclass(Tensor)
        return image if mask is None else (image, sample["mask"])

    def per_batch(self, images: Tensor) -> Tensor:
        """uint8 [..., 3, H, W] -> normalised float32 of the same shape."""
        images = images.float().mul_(self.scale).sub_(self.shift)
        for transform in self.batch:
            images = transform(images)
        return images

    def __call__(self, picture) -> Tensor:
        """Both parts for one picture, as torchreid's stock data manager needs it."""
        return self.per_batch(self.per_image(picture))


def build_pipeline(names, height, width, mean, std, options=None, interpolation="bilinear") -> Pipeline:
    """The pipeline of `names`. Raises ConfigError for an unknown name."""
    return Pipeline(names, height, width, mean, std, options, interpolation)


def compose_for_stock(names, height, width, norm_mean=None, norm_std=None) -> tuple[Pipeline, Pipeline]:
    """(training, test) transforms for torchreid's `ImageDataManager`, which applies them to each PIL picture."""
    mean, std = norm_mean or [0.485, 0.456, 0.406], norm_std or [0.229, 0.224, 0.225]
    if len(mean) != 3 or len(std) != 3:
        raise ConfigError(f"norm_mean and norm_std are three numbers each, got {mean} and {std}")
    return Pipeline(names, height, width, mean, std), Pipeline([], height, width, mean, std)
