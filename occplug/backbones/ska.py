"""Small-kernel aggregation of LSNet: a depthwise correlation whose kernels differ from place to place.

Wang et al., "LSNet: See Large, Focus Small", CVPR 2025, arXiv 2503.23135. The published code has it as a GPU kernel;
this is plain PyTorch, the same on CPU and GPU.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["small_kernel_aggregation"]


def small_kernel_aggregation(x: Tensor, kernels: Tensor) -> Tensor:
    """out[b, c, i, j] = sum over u, v < k of x~[b, c, i-p+u, j-p+v] * kernels[b, c mod G, u*k + v, i, j].

    x~ is `x` with zeros around it, p = (k - 1) / 2. Channels 0, G, 2G, ... share a kernel: they are interleaved.

    Args:
        x: [B, C, H, W], C a multiple of G.
        kernels: [B, G, k*k, H, W], k odd; converted to the type of `x`.

    Returns: [B, C, H, W] in the type of `x`.

    Raises:
        ValueError: k even, or C not a multiple of G.
    """
    groups, taps = kernels.shape[1:3]
    side = math.isqrt(taps)
    if side * side != taps or side % 2 == 0 or x.shape[1] % groups:
        raise ValueError(f"{taps} taps for {groups} kernels on {x.shape[1]} channels: no odd square, or no multiple")
    if torch.jit.is_tracing():
        return _summed(x, kernels.to(x.dtype))
    return _Aggregation.apply(x, kernels.to(x.dtype))


def _summed(x: Tensor, kernels: Tensor) -> Tensor:
    """The same sum, with new memory for every tap: exporters lose what is written through a view."""
    slices = enumerate(_shifted(_padded(x, kernels), kernels))
    return cast(Tensor, sum(shifted * kernels[:, None, :, tap] for tap, shifted in slices)).flatten(1, 2)


class _Aggregation(torch.autograd.Function):
    """Sum of shifted slices. Keeps the two inputs alone: autograd would keep a slice and a product for every tap."""

    @staticmethod
    def forward(ctx, x: Tensor, kernels: Tensor) -> Tensor:
        ctx.save_for_backward(x, kernels)
        out = torch.zeros_like(x, memory_format=torch.contiguous_format)
        total = _by_kernel(out, kernels)
        for tap, shifted in enumerate(_shifted(_padded(x, kernels), kernels)):
            total.addcmul_(shifted, kernels[:, None, :, tap])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of x and of the kernels, in their shapes; None where nobody asks."""
        x, kernels = ctx.saved_tensors
        wants_x, wants_kernels = ctx.needs_input_grad
        grad, grad_x, grad_kernels = _by_kernel(grad.contiguous(), kernels), None, None
        if wants_x:
            around = torch.zeros_like(_padded(x, kernels))
            for tap, shifted in enumerate(_shifted(around, kernels)):
                shifted.addcmul_(grad, kernels[:, None, :, tap])
            p, (height, width) = _reach(kernels), x.shape[2:]
            grad_x = around[:, :, p : p + height, p : p + width]
        if wants_kernels:
            slices = _shifted(_padded(x, kernels), kernels)
            grad_kernels = torch.stack([(shifted * grad).sum(1) for shifted in slices], dim=2)
        return grad_x, grad_kernels


def _reach(kernels: Tensor) -> int:
    return math.isqrt(kernels.shape[2]) // 2


def _padded(x: Tensor, kernels: Tensor) -> Tensor:
    return F.pad(x, [_reach(kernels)] * 4)


def _by_kernel(x: Tensor, kernels: Tensor) -> Tensor:
    """View [B, C, ...] as [B, C / G, G, ...], to be met by kernels[:, None]."""
    return x.unflatten(1, (-1, kernels.shape[1]))


def _shifted(padded: Tensor, kernels: Tensor) -> list[Tensor]:
    """For every tap the view of `padded` that it meets, [B, C / G, G, H, W]."""
    side, (height, width) = 2 * _reach(kernels) + 1, kernels.shape[3:]
    x = _by_kernel(padded, kernels)
    return [x[..., u : u + height, v : v + width] for u in range(side) for v in range(side)]
