"""Targets from part masks: which part a patch shows, and which parts an image shows."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["patch_labels", "visible_parts"]


def patch_labels(masks: Tensor, kernel: int, stride: int, gain: float = 64.0) -> Tensor:
    """How much each patch belongs to background and parts: ProFD's patch labels (arXiv 2409.20081, eq. 6), P.

    P = softmax over the channels of gain * average pooling of the masks, with the window and step of the patches and
    no padding. With the official gain of 64 the labels are nearly one-hot.

    Args:
        masks: [B, K + 1, H/4, W/4], background first, the channels of a position sum to 1.
        kernel, stride: of the pooling in mask cells, i.e. patch size and patch stride in pixels over 4.

    Returns: [B, K + 1, h, w] float32 on the patch grid.
    """
    with torch.autocast(masks.device.type, enabled=False):
        return (gain * F.avg_pool2d(masks.float(), kernel, stride)).softmax(dim=1)


def visible_parts(masks: Tensor) -> Tensor:
    """[B, K] float32: 1 where a part is the strongest channel at some position of `masks` [B, K + 1, *, *], else 0.

    Channel 0 is the background. ProFD's visibility target (arXiv 2409.20081, section 4.2.2), of the masks after
    augmentation: a part that random erasing has covered is not visible.
    """
    strongest = masks.flatten(2).argmax(dim=1)  # [B, positions]
    numbers = torch.arange(1, masks.shape[1], device=masks.device)
    return (strongest[:, None] == numbers[:, None]).any(dim=2).float()
