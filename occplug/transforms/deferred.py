"""A batch that is finished where it is used: bytes travel to the device, a quarter of the floats they become there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["RawBatch"]


class RawBatch:
    """The uint8 images of a batch, and what is left to do with them: normalise, and fill in what was drawn.

    It stands at `img` of a batch, in place of the tensor that :meth:`to` makes. The arithmetic is the same there as on
    the CPU, operation by operation, so the images are the same to the bit.

    Args:
        pixels: uint8 [B, 3, H, W].
        normalise: uint8 images -> float images on the same device.
        left: pairs (transform, what it was packed to), in order; `transform.finish(images, packed)` fills float images.
    """

    def __init__(
        self, pixels: Tensor, normalise: Callable[[Tensor], Tensor], left: Sequence[tuple[object, dict[str, Tensor]]]
    ):
        self.pixels, self.normalise, self.left = pixels, normalise, list(left)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> torch.Size:
        """[B, 3, H, W]."""
        return self.pixels.shape

    @property
    def device(self) -> torch.device:
        """Where the pixels are."""
        return self.pixels.device

    def pin_memory(self) -> RawBatch:
        """Itself in page-locked memory, which a data loader asks for."""
        left = [
            (transform, {key: value.pin_memory() for key, value in packed.items()}) for transform, packed in self.left
        ]
        return RawBatch(self.pixels.pin_memory(), self.normalise, left)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Tensor:
        """The finished images, float32 [B, 3, H, W] on `device`."""
        images = self.normalise(self.pixels.to(device, non_blocking=non_blocking))
        for transform, packed in self.left:
            moved = {key: value.to(device, non_blocking=non_blocking) for key, value in packed.items()}
            transform.finish(images, moved)  # type: ignore[attr-defined]
        return images

    def cuda(self) -> Tensor:
        """As `torch.Tensor.cuda`, which torchreid's engines call."""
        return self.to("cuda", non_blocking=True)
