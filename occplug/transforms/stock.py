"""torchreid's own augmentations by the names its configs use, with torchreid's settings."""

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from occplug.registry import TRANSFORMS
from occplug.torchreid_bridge import stock_transforms

__all__ = ["ColorJitter", "RandomCrop", "RandomErase", "RandomPatch"]


@TRANSFORMS.register_module("random_crop")
class RandomCrop(nn.Module):
    """torchreid's Random2DTranslation: enlarge by 1.125 and crop, with probability 0.5."""

    level = "pil"

    def __init__(self, height: int, width: int):
        super().__init__()
        self.apply_to = stock_transforms()["random_crop"](height, width)

    def forward(self, picture):
        return self.apply_to(picture)


@TRANSFORMS.register_module("random_patch")
class RandomPatch(nn.Module):
    """torchreid's random patch from a pool of earlier pictures (so it depends on the order within a worker)."""

    level = "pil"

    def __init__(self):
        super().__init__()
        self.apply_to = stock_transforms()["random_patch"]()

    def forward(self, picture):
        return self.apply_to(picture)


@TRANSFORMS.register_module("color_jitter")
class ColorJitter(v2.ColorJitter):
    """torchvision's colour jitter with torchreid's settings."""

    level = "image"
    defaults = {"brightness": 0.2, "contrast": 0.15}

    def __init__(self, brightness: float = 0.2, contrast: float = 0.15):
        super().__init__(brightness=brightness, contrast=contrast)


@TRANSFORMS.register_module("random_erase")
class RandomErase(nn.Module):
    """torchreid's random erasing with a constant fill, after normalisation."""

    level = "batch"

    def __init__(self):
        super().__init__()
        self.apply_to = stock_transforms()["random_erase"]()

    def forward(self, images: Tensor) -> Tensor:
        rows = [self.apply_to(image.clone()) for image in images.view(-1, *images.shape[-3:])]
        return torch.stack(rows).view(images.shape)
