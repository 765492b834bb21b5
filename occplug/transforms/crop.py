"""Crops of the resized image."""

from torchvision.transforms import v2

from occplug.registry import TRANSFORMS

__all__ = ["PadCrop", "RandomFlip"]


@TRANSFORMS.register_module("random_flip")
class RandomFlip(v2.RandomHorizontalFlip):
    """Mirror with probability `prob`; torchreid's transform of this name."""

    level = "image"
    defaults = {"prob": 0.5}

    def __init__(self, prob: float = 0.5):
        super().__init__(p=prob)


@TRANSFORMS.register_module("pad_crop")
class PadCrop(v2.Transform):
    """Pad every side with `padding` black pixels, then crop the original size at a random place (CLIP-ReID)."""

    level = "image"
    defaults = {"padding": 10}

    def __init__(self, padding: int = 10):
        super().__init__()
        self.padding = padding

    def make_params(self, flat_inputs):
        height, width = v2.functional.get_size(flat_inputs[0])
        import torch

        top, left = (int(torch.randint(0, 2 * self.padding + 1, ())) for _ in range(2))
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt, params):
        padded = v2.functional.pad(inpt, [self.padding] * 4, fill=0)
        return v2.functional.crop(padded, **params)
