"""Random erasing with per-pixel noise."""

import math

import torch
from torch import Tensor
from torchvision.transforms.v2 import Transform

from occplug.registry import TRANSFORMS

__all__ = ["RandomErasePixel"]


@TRANSFORMS.register_module("random_erase_pixel")
class RandomErasePixel(Transform):
    """Fill one random rectangle with standard normal noise, a value per pixel and channel.

    Zhong et al., arXiv 1708.04896, in the variant CLIP-ReID uses (timm's mode "pixel", after normalisation): up to
    `attempts` times draw an area fraction uniform in [min_area, max_area] and an aspect ratio log-uniform in
    [min_aspect, 1 / min_aspect]; h = round(sqrt(area aspect)), w = round(sqrt(area / aspect)); accept if h < H and
    w < W; uniform position. Each image of a batch draws on its own, from torch's global generator.
    """

    level = "batch"
    defaults = {"prob": 0.5, "min_area": 0.02, "max_area": 1 / 3, "min_aspect": 0.3, "attempts": 10}

    def __init__(self, prob=0.5, min_area=0.02, max_area=1 / 3, min_aspect=0.3, attempts=10):
        super().__init__()
        self.prob, self.areas, self.min_aspect, self.attempts = prob, (min_area, max_area), min_aspect, attempts

    def forward(self, images: Tensor) -> Tensor:
        """`images` [..., 3, H, W] float; returns a copy with rectangles filled."""
        images = images.clone()
        for image in images.view(-1, *images.shape[-3:]):
            self._erase(image)
        return images

    def _erase(self, image: Tensor) -> None:
        if torch.rand(()) >= self.prob:
            return
        channels, height, width = image.shape
        limit = math.log(self.min_aspect)
        for _ in range(self.attempts):
            area = height * width * float(torch.empty(()).uniform_(*self.areas))
            aspect = math.exp(float(torch.empty(()).uniform_(limit, -limit)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top = int(torch.randint(0, height - h + 1, ()))
                left = int(torch.randint(0, width - w + 1, ()))
                image[:, top : top + h, left : left + w] = torch.randn(channels, h, w)
                return
