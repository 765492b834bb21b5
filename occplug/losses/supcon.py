"""Supervised contrast between two sets of vectors."""

import torch
from torch import Tensor, nn

from occplug.registry import LOSSES

__all__ = ["SupCon"]


@LOSSES.register_module("supcon")
class SupCon(nn.Module):
    r"""How well each row matches the columns with its label.

    CLIP-ReID (arXiv 2211.13977), eq. 3-4, in the form of its official code:

        s = x y^T (dot product: no normalisation, temperature 1),
        loss = - mean_i  mean_{j : y_j = x_i} log softmax_j(s_ij).

    Every column counts in the denominator, duplicates included. A row without a column of its label would have no
    term; it is left out of the mean, and with no such row at all the loss is zero.
    """

    def forward(self, x: Tensor, y: Tensor, labels_x: Tensor, labels_y: Tensor) -> Tensor:
        """
        Args:
            x: [N, D] rows; y: [M, D] columns; labels_x: [N]; labels_y: [M], integers.

        Returns: scalar float32.

        Raises: ValueError if the widths differ or labels do not fit.
        """
        if x.shape[1] != y.shape[1] or len(x) != len(labels_x) or len(y) != len(labels_y):
            shapes = [tuple(t.shape) for t in (x, y, labels_x, labels_y)]
            raise ValueError(f"SupCon wants x [N, D], y [M, D], labels [N] and [M]; got {shapes}")
        with torch.autocast(x.device.type, enabled=False):
            return self.of_scores(x.float() @ y.float().T, labels_x[:, None] == labels_y[None, :])

    def of_scores(self, scores: Tensor, positive: Tensor) -> Tensor:
        """The same of products `scores` [N, M] and of which of them have one label, `positive` [N, M] bool."""
        count = positive.sum(dim=1)
        per_row = -(scores.log_softmax(dim=1) * positive).sum(dim=1) / count.clamp(min=1)
        return per_row.sum() / (count > 0).sum().clamp(min=1)
