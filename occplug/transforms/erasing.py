"""Random erasing with noise, a value per pixel."""

import math

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from occplug.config.ranges import ABOVE_0, SHARE
from occplug.errors import ConfigError
from occplug.registry import TRANSFORMS, defaults_of

__all__ = ["RandomErasePixel"]


@TRANSFORMS.register_module("random_erase_pixel")
class RandomErasePixel(v2.Transform):
    """Fill a rectangle of an image with standard normal noise, a value per pixel and channel.

    Random erasing (Zhong et al., arXiv 1708.04896) in the variant CLIP-ReID uses, timm's mode "pixel", after
    normalisation. Up to `attempts` times: area = H W U[min_area, max_area], aspect log-uniform in [min_aspect,
    1 / min_aspect], h = round(sqrt(area aspect)), w = round(sqrt(area / aspect)); the first with h < H and w < W is
    filled at a uniform place. torchreid's `random_erase` is another transform (constant fill, larger areas).

    A mask given with the images is set to 0 in the same rectangles.

    Args:
        prob: probability that an image is erased; every image of a batch draws on its own, from torch's generator.
        min_area, max_area: share of the image, before the sides are rounded.
        min_aspect: height / width is between this and its inverse.
        attempts: after so many rectangles that do not fit, the image stays whole.
        inplace: fill the tensor that was given in place of a copy.

    Raises:
        ConfigError: areas or aspect that no rectangle has.
    """

    level = "batch"
    occludes = True
    context = ("inplace",)
    ranges = {"prob": SHARE, "min_area": SHARE, "max_area": SHARE, "min_aspect": ABOVE_0, "attempts": (1, 10_000)}

    def __init__(self, prob=0.5, min_area=0.02, max_area=1 / 3, min_aspect=0.3, attempts=10, inplace=False):
        super().__init__()
        if not 0 < min_area <= max_area < 1 or not 0 < min_aspect <= 1:
            raise ConfigError(
                f"augment.random_erase_pixel: min_area {min_area}, max_area {max_area}, min_aspect {min_aspect}; they "
                "must be 0 < min_area <= max_area < 1 and 0 < min_aspect <= 1"
            )
        self.prob, self.min_area, self.max_area, self.min_aspect = prob, min_area, max_area, min_aspect
        self.attempts, self.inplace = attempts, inplace

    defaults = defaults_of(__init__, without=context)

    def make_params(self, flat_inputs: list) -> dict[str, list]:
        """`boxes`: per image (image number, top, left, height, width) in pixels, only those that are erased; `noise`,
        [C, height, width] for each of them, where the first input is of images."""
        *batch, _, height, width = flat_inputs[0].shape
        count = math.prod(batch)
        draws = torch.rand(count, 3 + 2 * self.attempts, dtype=torch.float64)  # [N, 3 + 2A]
        chosen, at_row, at_column, areas, aspects = draws.split([1, 1, 1, self.attempts, self.attempts], dim=1)
        areas = height * width * (self.min_area + (self.max_area - self.min_area) * areas)  # [N, A]
        aspects = self.min_aspect ** (1 - 2 * aspects)  # [N, A]
        h, w = (areas * aspects).sqrt().round(), (areas / aspects).sqrt().round()
        fits = (h < height) & (w < width)
        first = fits.int().argmax(dim=1, keepdim=True)  # [N, 1]
        erased = ((chosen < self.prob) & fits.gather(1, first)).nonzero()[:, 0]
        h, w = h.gather(1, first), w.gather(1, first)
        top, left = (at_row * (height - h + 1)).floor(), (at_column * (width - w + 1)).floor()
        boxes = torch.cat([top, left, h, w], dim=1).long()[erased]  # [E, 4]
        numbers = boxes.tolist()
        is_mask = isinstance(flat_inputs[0], tv_tensors.Mask)
        noise = [] if is_mask else [torch.randn(flat_inputs[0].shape[-3], h, w) for _, _, h, w in numbers]
        return {"boxes": [(image, *box) for image, box in zip(erased.tolist(), numbers)], "noise": noise}

    def transform(self, inpt: Tensor, params: dict[str, list]) -> Tensor:
        """`inpt` [..., C, H, W]: float images, or masks of any type."""
        output = inpt if self.inplace else inpt.clone()
        images = output.view(-1, *output.shape[-3:])
        is_mask = isinstance(inpt, tv_tensors.Mask)
        for number, (image, top, left, h, w) in enumerate(params["boxes"]):
            images[image, :, top : top + h, left : left + w] = 0 if is_mask else params["noise"][number]
        return output

    def pack(self, params: dict[str, list], shape, kept=None) -> dict[str, Tensor]:
        """What :meth:`finish` needs: `where` [n, 1, H, W] bool, and the noise of all boxes as one row.

        Args:
            shape: [B, C, H, W] of the batch.   kept: numbers of its n images that are wanted; None: all.
        """
        place = {image: row for row, image in enumerate(range(shape[0]) if kept is None else kept)}
        where = torch.zeros(len(place), 1, *shape[-2:], dtype=torch.bool)
        rows = []
        for (image, top, left, h, w), noise in zip(params["boxes"], params["noise"]):
            if image in place:
                where[place[image], :, top : top + h, left : left + w] = True
                rows.append((place[image], noise.flatten()))
        ordered = [noise for _, noise in sorted(rows, key=lambda row: row[0])]
        return {"where": where, "noise": torch.cat(ordered) if ordered else torch.empty(0)}

    def finish(self, images: Tensor, packed: dict[str, Tensor]) -> None:
        """Fill float `images` [n, C, H, W] on any device in place, as :meth:`transform` does."""
        images.masked_scatter_(packed["where"].expand_as(images), packed["noise"].to(images.dtype))
