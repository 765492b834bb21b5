"""Agreement of attention maps with patch labels."""

import torch
from torch import Tensor, nn

from occplug.registry import LOSSES

__all__ = ["AttentionAlign"]


@LOSSES.register_module("attention_align")
class AttentionAlign(nn.Module):
    r"""Cross entropy of each query's attention over the patches with where its part is.

    ProFD (arXiv 2409.20081), eq. 9, in the form of its official code. With patch labels P the rows are

        M = [P_0; 1 - P_0; P_1 ... P_K]     background, whole person, parts
        loss = - mean over images and rows of  sum_l softmax_l(M / temperature)_l log(A_l + eps).

    The row of a part that is nowhere has a flat target.

    Args:
        temperature: of the target; M / 0.01 reaches 100, so the target is computed in float32.
        eps: keeps the logarithm finite where the attention is 0.
    """

    def __init__(self, temperature: float = 0.01, eps: float = 1e-5):
        super().__init__()
        self.temperature, self.eps = temperature, eps

    def forward(self, logits: Tensor, patch_labels: Tensor) -> Tensor:
        """The loss of A = softmax over the patches of `logits` [B, K + 2, L]; otherwise as :meth:`of_attention`."""
        return self.of_attention(logits.float().softmax(dim=2), patch_labels)

    def of_attention(self, attention: Tensor, patch_labels: Tensor) -> Tensor:
        """
        Args:
            attention: A [B, K + 2, L], rows over the patches; may be a mean of several maps.
            patch_labels: P [B, K + 1, L] or [B, K + 1, h, w].

        Returns: scalar float32.

        Raises: ValueError if the rows or patches of the two do not belong together.
        """
        labels = patch_labels.flatten(2).float()
        rows = torch.cat([labels[:, :1], 1 - labels[:, :1], labels[:, 1:]], dim=1)  # M, [B, K + 2, L]
        if rows.shape != attention.shape:
            shapes = f"{tuple(attention.shape)} and {tuple(patch_labels.shape)}"
            raise ValueError(f"attention is [B, K + 2, L] and patch labels [B, K + 1, L], got {shapes}")
        with torch.autocast(attention.device.type, enabled=False):
            target = (rows / self.temperature).softmax(dim=2)
            return -(target * (attention.float() + self.eps).log()).sum(dim=2).mean()
