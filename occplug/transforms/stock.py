"""torchreid's augmentations by the names its configs use, with torchreid's settings.

What torchreid draws from Python's generator is drawn from there too, so that the same seeds give the same images.
"""

from __future__ import annotations

import math
import random

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from occplug.config.ranges import SHARE
from occplug.registry import TRANSFORMS, defaults_of
from occplug.transforms.resampling import resized_picture

__all__ = ["ColorJitter", "RandomCrop", "RandomErase", "RandomFlip", "RandomPatch"]


@TRANSFORMS.register_module("random_flip")
class RandomFlip(v2.Transform):
    """Mirror with probability `prob`; the draw is that of torchvision's `RandomHorizontalFlip`."""

    level = "pil"
    takes_pixels = True
    ranges = {"prob": SHARE}

    def __init__(self, prob: float = 0.5):
        super().__init__()
        self.prob = prob

    defaults = defaults_of(__init__)

    def make_params(self, flat_inputs: list) -> dict[str, bool]:
        """Draws whether to mirror."""
        return {"mirrored": float(torch.rand(1)) < self.prob}

    def transform(self, inpt, params: dict[str, bool]):
        """Mirrors an image, its pixels [H, W, 3] or a mask, if drawn so."""
        if params["mirrored"] and isinstance(inpt, np.ndarray):
            import cv2  # takes long to import

            return cv2.flip(inpt, 1)
        return v2.functional.horizontal_flip(inpt) if params["mirrored"] else inpt


@TRANSFORMS.register_module("random_crop")
class RandomCrop(v2.Transform):
    """Enlarge to 1.125 times the size and crop the original size, with probability 1/2.

    torchreid's `Random2DTranslation`, draw for draw and pixel for pixel; masks move along (enlarged by nearest pixel).

    Args:
        height, width: of the image, in pixels.
    """

    level = "pil"
    takes_pixels = True
    context = ("height", "width")
    enlargement = 1.125

    def __init__(self, height: int, width: int):
        super().__init__()
        self.height, self.width = height, width
        self.large = [round(height * self.enlargement), round(width * self.enlargement)]

    def make_params(self, flat_inputs: list) -> dict:
        """Draws the corner (row, column) of the crop, or None."""
        if random.uniform(0, 1) > 0.5:
            return {"corner": None}
        left = round(random.uniform(0, self.large[1] - self.width))
        top = round(random.uniform(0, self.large[0] - self.height))
        return {"corner": (top, left)}

    def transform(self, inpt, params: dict):
        """Enlarges and crops an image, its pixels [H, W, 3] or a mask, if drawn so."""
        if params["corner"] is None:
            return inpt
        if isinstance(inpt, np.ndarray):
            height, width = self.large
            (top, left), enlarged = params["corner"], np.asarray(resized_picture(inpt, height, width, "bilinear"))
            return enlarged[top : top + self.height, left : left + self.width]
        enlarged = v2.functional.resize(inpt, self.large, InterpolationMode.BILINEAR)
        return v2.functional.crop(enlarged, *params["corner"], self.height, self.width)


@TRANSFORMS.register_module("random_patch")
class RandomPatch(v2.Transform):
    """Paste a patch of an earlier image, with probability 1/2, once 100 patches are pooled; torchreid's `RandomPatch`.

    Every worker process pools its own patches, so unlike all other transforms this one gives other images for other
    `data.workers`, and after a resume.
    """

    level = "pil"

    def __init__(self):
        super().__init__()
        from occplug.torchreid_host import stock_transforms  # imports torchreid, which takes seconds

        self.stock = stock_transforms()["random_patch"]()

    def transform(self, inpt, params: dict):
        """Pastes onto an image, on a copy of it."""
        # a mask stays as it is; the stock code pastes in place
        return inpt if isinstance(inpt, Tensor) else self.stock(inpt.copy())


@TRANSFORMS.register_module("color_jitter")
class ColorJitter(v2.ColorJitter):
    """torchvision's colour jitter as torchreid sets it, on the PIL image.

    Args:
        brightness, contrast, saturation: factors are uniform in [1 - value, 1 + value].
        hue: shift is uniform in [-value, value], at most 0.5.
        prob: of any change at all; torchreid always jitters.
    """

    level = "pil"
    ranges = {"prob": SHARE}

    def __init__(
        self,
        brightness: float = 0.2,
        contrast: float = 0.15,
        saturation: float = 0.0,
        hue: float = 0.0,
        prob: float = 1.0,
    ):
        super().__init__(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue)
        self.prob = prob

    defaults = defaults_of(__init__)

    def forward(self, *inputs):
        """Jitters the inputs, or gives them back as they are."""
        # no draw if there is nothing to decide, so that the stock transform's draws stay as they are
        if self.prob < 1 and float(torch.rand(1)) >= self.prob:
            return inputs[0] if len(inputs) == 1 else inputs
        return super().forward(*inputs)


@TRANSFORMS.register_module("random_erase")
class RandomErase(v2.Transform):
    """Fill a rectangle with a constant after normalisation, with probability 1/2; torchreid's `RandomErasing`.

    The constant is `mean`, the pixel mean, although the image is normalised: that is what torchreid does. A mask given
    with the images is set to 0 in the same rectangles.

    Args:
        mean: three numbers.
        inplace: fill the tensor that was given in place of a copy.
    """

    level = "batch"
    context = ("mean", "inplace")

    def __init__(self, mean, inplace: bool = False):
        super().__init__()
        self.mean, self.inplace = list(mean), inplace

    def make_params(self, flat_inputs: list) -> dict[str, list]:
        """`boxes`: (image number, top, left, height, width) in pixels of each image that is erased."""
        *batch, _, height, width = flat_inputs[0].shape
        drawn = [(image, _erased_box(height, width)) for image in range(math.prod(batch))]
        return {"boxes": [(image, *box) for image, box in drawn if box]}

    def transform(self, inpt: Tensor, params: dict[str, list]) -> Tensor:
        """`inpt` [..., C, H, W]: float images of three channels, or masks of any type."""
        output = inpt if self.inplace else inpt.clone(memory_format=torch.contiguous_format)
        images = output.view(-1, *output.shape[-3:]).as_subclass(Tensor)
        values = [0] * images.shape[1] if isinstance(inpt, tv_tensors.Mask) else self.mean
        filling = torch.tensor(values, dtype=images.dtype)[:, None, None]
        for image, top, left, h, w in params["boxes"]:
            images[image, :, top : top + h, left : left + w] = filling
        return output

    def pack(self, params: dict[str, list], shape, kept=None) -> dict[str, Tensor]:
        """What :meth:`finish` needs of the images `kept` (None: all) of a batch [B, C, H, W]."""
        where = torch.zeros(shape[0], *shape[-2:], dtype=torch.bool)
        for image, top, left, h, w in params["boxes"]:
            where[image, top : top + h, left : left + w] = True
        return {"where": where if kept is None else where[list(kept)]}

    def finish(self, images: Tensor, packed: dict[str, Tensor]) -> None:
        """Fill float `images` [n, 3, H, W] on any device in place, as :meth:`transform` does."""
        for channel, value in enumerate(self.mean):
            images[:, channel].masked_fill_(packed["where"], value)


def _erased_box(height: int, width: int) -> tuple[int, int, int, int] | None:
    """Top, left, height and width of what torchreid would erase, by its draws; None for nothing."""
    if random.uniform(0, 1) > 0.5:
        return None
    for _ in range(100):
        area, aspect = random.uniform(0.02, 0.4) * (height * width), random.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            return random.randint(0, height - h), random.randint(0, width - w), h, w
    return None
