"""How much of an image may be salient."""

from torch import Tensor, nn

from occplug.registry import LOSSES

__all__ = ["Budget"]


@LOSSES.register_module("budget")
class Budget(nn.Module):
    """Squared difference between the mean saliency of the *batch* and a ratio: DPM++ (arXiv 2605.06637), eq. 22.

    The mean over images and patches comes first, then the square: single images may differ.

    Args:
        ratio: gamma, wanted share of salient patches.
    """

    def __init__(self, ratio: float = 0.3):
        super().__init__()
        self.ratio = ratio

    def forward(self, saliency: Tensor) -> Tensor:
        """`saliency` [B, N] in (0, 1) -> scalar float32."""
        return (saliency.float().mean() - self.ratio) ** 2
