"""AG-ReID's alignment of predicted attributes with pseudo-labels, and the thresholds of its noise mask."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.errors import ConfigError
from occplug.registry import LOSSES

__all__ = ["AttributeAlign", "noise_threshold", "otsu_threshold"]

KEEP_ALL = -1.0  # the paper's gamma for holistic data sets: nothing is masked
_QUANTILE = re.compile(r"p(\d{1,2})")


def otsu_threshold(values: Tensor) -> Tensor:
    r"""The value s_k of the sorted `values` [N] that best splits them in two classes (Otsu), without bins.

    For k = 1..N-1, w = k / N: sigma^2_k = w (1 - w) (mean(s_{k+1..N}) - mean(s_{1..k}))^2; the first maximum counts.
    If all values are equal there is nothing to split, and the threshold is -1 (keep all). Scalar of `values`' dtype.
    """
    s = values.detach().double().flatten().sort().values
    count = len(s)
    if count < 2:
        return values.new_full((), KEEP_ALL)
    below = torch.arange(1, count, device=s.device)
    sums = s.cumsum(0)
    gap = (sums[-1] - sums[:-1]) / (count - below) - sums[:-1] / below
    weight = below / count
    between = weight * (1 - weight) * gap.square()
    # rounding must not decide between equal maxima
    first = (between >= between.max() * (1 - 1e-12)).int().argmax()
    chosen = s.take(first)  # an index with a single tensor would ask the device for its number
    return torch.where(s[0] == s[-1], torch.full_like(s[0], KEEP_ALL), chosen).to(values.dtype)


def noise_threshold(name: str | float | None, key: str = "threshold") -> Callable[[Tensor], Tensor]:
    """The function from cosines [N] to the threshold gamma that `name` means.

    Args:
        name: "otsu"; "p50", "p90" and so on: that percentile (linear interpolation; p90 keeps the top tenth); a number
            or its text: fixed; "none" or None: -1, nothing is masked.
        key: config key that the error names.

    Raises:
        ConfigError: none of these, or a number outside [-1, 1].
    """
    if name is None or name == "none":
        return lambda values: values.new_full((), KEEP_ALL)
    if name == "otsu":
        return otsu_threshold
    if quantile := _QUANTILE.fullmatch(str(name)):
        share = int(quantile[1]) / 100
        return lambda values: values.detach().quantile(share)
    try:
        fixed = float(name)
    except ValueError:
        fixed = float("nan")
    if not -1 <= fixed <= 1:
        raise ConfigError(
            f"{key} is {name!r}; there are: otsu, a percentile such as p50, p75 or p90, a number from -1 to 1, and none"
        )
    return lambda values: values.new_full((), fixed)


@LOSSES.register_module("attribute_align")
class AttributeAlign(nn.Module):
    r"""How well predicted attributes match their pseudo-labels, slot by slot, where they match well enough.

    AG-ReID (arXiv 2508.04998), eq. 8, 13 and 14:

        loss = - 1/r sum_i sum_j D(i, j) cos(a_ij, v_ij),    D(i, j) = 1 if cos(a_ij, v_ij) > gamma, else 0.

    D carries no gradient, and the sum is divided by the number of slots r, not by the number of pairs kept.

    Args:
        reduction: "sum" over the batch, as printed, or "mean".
        threshold: where gamma comes from, as :func:`noise_threshold` takes it, computed from the batch's n r cosines;
            None is eq. 8 (all pairs).

    Raises:
        ConfigError: unknown reduction or threshold.
    """

    def __init__(self, reduction: str = "sum", threshold: str | float | None = None):
        super().__init__()
        if reduction not in ("sum", "mean"):
            raise ConfigError(f"reduction is {reduction!r}; there are: sum, mean")
        self.reduction = reduction
        self.threshold = noise_threshold(threshold)

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """`predicted`, `target` [n, r, D] -> scalar float32. Raises ValueError if their shapes differ."""
        cosine = self.cosines(predicted, target)
        return self.reduce(cosine, self.gamma(cosine))

    def cosines(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Cosine of each slot's pair, [n, r] float32; a zero vector has cosine 0 with everything."""
        if predicted.shape != target.shape or predicted.ndim != 3:
            shapes = f"{list(predicted.shape)} and {list(target.shape)}"
            raise ValueError(f"AttributeAlign wants two [n, r, D]; got {shapes}")
        with torch.autocast(predicted.device.type, enabled=False):
            a, v = (F.normalize(x.float(), dim=-1, eps=1e-8) for x in (predicted, target))
            return (a * v).sum(dim=-1)

    def gamma(self, cosine: Tensor) -> Tensor:
        """The threshold for these cosines [n, r]; scalar without gradient."""
        return self.threshold(cosine.detach().flatten())

    def reduce(self, cosine: Tensor, gamma: Tensor) -> Tensor:
        """Eq. 14 from cosines [n, r] and a threshold."""
        per_image = -torch.where(self.kept(cosine, gamma), cosine, 0.0).mean(dim=1)
        return per_image.sum() if self.reduction == "sum" else per_image.mean()

    @staticmethod
    def kept(cosine: Tensor, gamma: Tensor) -> Tensor:
        """D of eq. 13, boolean [n, r]; gamma = -1 keeps all, opposite vectors (cosine -1) included."""
        return (cosine.detach() > gamma) | (gamma <= KEEP_ALL)
