"""Agreement of patch features with the texts of the parts they show."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.registry import LOSSES

__all__ = ["SpatialAlign"]


@LOSSES.register_module("spatial_align")
class SpatialAlign(nn.Module):
    r"""Cross entropy of cosine maps against patch labels, at the resolution of the masks.

    ProFD (arXiv 2409.20081), eq. 5-6, in the form of its official code: the maps s = gain * cosine and the labels P are
    both resized to the masks' size (bilinear, corners aligned), then

        loss = mean over images and positions of CE(up(s), argmax over channels of up(P)),  with label smoothing.

    Args:
        gain: factor on the cosines; 1 in the paper.
        smoothing: of the labels; 0 in the paper.
    """

    def __init__(self, gain: float = 5.0, smoothing: float = 0.1):
        super().__init__()
        self.gain, self.smoothing = gain, smoothing

    def forward(self, cosines: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        """
        Args:
            cosines: [B, K + 1, h, w] of each patch with background and parts.
            labels: [B, K + 1, h, w] patch labels.
            size: (rows, columns) of the masks, a quarter of the image.

        Returns: scalar float32.
        """
        with torch.autocast(cosines.device.type, enabled=False):
            up = partial(F.interpolate, size=tuple(size), mode="bilinear", align_corners=True)
            scores = up(self.gain * cosines.float())
            target = up(labels.float()).argmax(dim=1)
            # as rows, since the form for maps has no deterministic gradient on GPUs
            rows = scores.permute(0, 2, 3, 1).flatten(0, 2)  # [B * rows * columns, K + 1]
            return F.cross_entropy(rows, target.flatten(), label_smoothing=self.smoothing)
