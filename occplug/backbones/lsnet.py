"""LSNet, a light backbone that perceives with large kernels and aggregates with small ones.

Wang et al., "LSNet: See Large, Focus Small", CVPR 2025, arXiv 2503.23135. The names of modules are those of the
published code, so that released checkpoints load by name; its head for ImageNet is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import SqueezeExcite
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from occplug.backbones.resampling import enlarge_bicubic
from occplug.backbones.ska import small_kernel_aggregation
from occplug.registry import BACKBONES

__all__ = ["FixedBatchNorm2d", "LSNet", "SIZES"]

_log = logging.getLogger(__name__)
KEY_WIDTH, HEADS, TABLE_SIDE, TAPS, SHARED = 16, 4, 4, 9, 8  # of the attention; of the small kernels
Norm = Callable[[int], nn.Module]

SIZES = {
    "lsnet_t": {"widths": (64, 128, 256, 384), "depths": (0, 2, 8, 10)},
    "lsnet_s": {"widths": (96, 192, 320, 448), "depths": (1, 2, 8, 10)},
    "lsnet_b": {"widths": (128, 256, 384, 512), "depths": (4, 6, 8, 10)},
    "lsnet_mini": {"widths": (32, 64, 96, 128), "depths": (0, 2, 2, 2)},  # ours, beside the embedded tiny CLIP
}


class FixedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that uses its stored statistics in training too; weight and bias train as ever."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class ConvNorm(nn.Module):
    """Convolution without bias, then batch norm."""

    def __init__(self, width_in: int, width: int, norm: Norm, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        self.c = nn.Conv2d(width_in, width, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn: Any = norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width_in, H, W] -> [B, width, ceil(H / stride), ceil(W / stride)]."""
        return self.bn(self.c(x))

    def fused(self) -> nn.Conv2d:
        """One convolution with the values of both in eval mode."""
        return fuse_conv_bn_eval(self.c.eval(), self.bn.eval())


class RepDW(nn.Module):
    """Depthwise 3x3, depthwise 1x1 and identity, added up."""

    def __init__(self, width: int, norm: Norm):
        super().__init__()
        self.conv = ConvNorm(width, width, norm, 3, groups=width)
        self.conv1 = ConvNorm(width, width, norm, 1, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> the same shape."""
        return self.conv(x) + self.conv1(x) + x

    @torch.no_grad()
    def fused(self) -> nn.Conv2d:
        """One depthwise 3x3 convolution; the 1x1 kernel and the identity are added to its centre."""
        whole, point = self.conv.fused(), self.conv1.fused()
        assert whole.bias is not None and point.bias is not None, "a fused batch norm leaves a bias"
        whole.weight[:, :, 1:2, 1:2] += point.weight + 1
        whole.bias += point.bias
        return whole


class Perception(nn.Module):
    """Large-kernel perception: the small kernels of every place, from its 7x7 surroundings."""

    def __init__(self, width: int, norm: Norm):
        super().__init__()
        half, kernels = width // 2, width // SHARED
        self.cv1 = ConvNorm(width, half, norm)
        self.cv2 = ConvNorm(half, half, norm, 7, groups=half)
        self.cv3 = ConvNorm(half, half, norm)
        self.cv4 = nn.Conv2d(half, TAPS * kernels, 1)
        self.norm = nn.GroupNorm(kernels, TAPS * kernels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C / 8, 9, H, W], at least float32 under autocast: a norm over the whole plane."""
        x = self.cv4(F.relu(self.cv3(self.cv2(F.relu(self.cv1(x))))))
        x = self.norm(x.to(torch.promote_types(self.norm.weight.dtype, x.dtype)))
        return x.unflatten(1, (-1, TAPS))


class LSConv(nn.Module):
    """x + BN(SKA(x, perceived kernels))."""

    def __init__(self, width: int, norm: Norm):
        super().__init__()
        self.lkp = Perception(width, norm)
        self.bn = norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> the same shape."""
        return x + self.bn(small_kernel_aggregation(x, self.lkp(x)))


class FeedForward(nn.Module):
    """Two pointwise layers with twice the width between."""

    def __init__(self, width: int, norm: Norm):
        super().__init__()
        self.pw1 = ConvNorm(width, 2 * width, norm)
        self.pw2 = ConvNorm(2 * width, width, norm)
        nn.init.zeros_(self.pw2.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> the same shape."""
        return self.pw2(F.relu(self.pw1(x)))


class Attention(nn.Module):
    """Self-attention over the cells of a map, with a learned bias for each distance in rows and columns.

    The table covers distances of less than 4, the grid of a 224x224 image. The index is made for the grid at hand; a
    grid with a longer side first enlarges the table bicubically, and the stored table keeps its size. Exempt
    `attention_biases` from weight decay.
    """

    def __init__(self, width: int, norm: Norm):
        super().__init__()
        keys = HEADS * KEY_WIDTH
        self.widths = [keys, keys, width]
        self.qkv = ConvNorm(width, sum(self.widths), norm)
        self.dw = ConvNorm(keys, keys, norm, 3, groups=keys)
        last = ConvNorm(width, width, norm)
        self.proj = nn.Sequential(nn.ReLU(), last)
        nn.init.zeros_(last.bn.weight)
        self.attention_biases = nn.Parameter(torch.zeros(HEADS, TABLE_SIDE * TABLE_SIDE))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> the same shape; N = H * W cells."""
        q, k, v = self.qkv(x).split(self.widths, dim=1)
        q, k, v = (t.flatten(2).unflatten(1, (HEADS, -1)).transpose(2, 3) for t in (self.dw(q), k, v))  # [B, h, N, d]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias(x.shape[2], x.shape[3]))
        return self.proj(out.transpose(2, 3).reshape(x.shape))

    def bias(self, rows: int, columns: int) -> Tensor:
        """Bias between every two cells of a grid, [heads, N, N], N = rows * columns."""
        rows, columns = int(rows), int(columns)  # tracing gives tensors, of which no two are the same key
        table: Tensor = self.attention_biases
        size = (max(TABLE_SIDE, rows), max(TABLE_SIDE, columns))
        if size != (TABLE_SIDE, TABLE_SIDE):
            table = enlarge_bicubic(table.unflatten(1, (TABLE_SIDE, TABLE_SIDE)), size).flatten(1)
        return table[:, _distances(rows, columns, size, table.device)]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept for later calls has to serve training too
def _distances(rows: int, columns: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """[N, N], where in the flat table of `size` the entry for the distance of two cells is."""
    if size != (TABLE_SIDE, TABLE_SIDE):
        _log.info("a grid of %dx%d: LSNet's attention bias enlarged to %dx%d", rows, columns, *size)
    cells = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))  # [N, 2]
    apart = (cells[:, None] - cells[None]).abs()
    return (apart[..., 0] * size[1] + apart[..., 1]).to(device)


class Residual(nn.Module):
    """x + m(x)."""

    def __init__(self, m: nn.Module):
        super().__init__()
        self.m = m

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return x + self.m(x)


class Block(nn.Module):
    """A mixer of places, squeeze-and-excitation after a convolutional one, then a mixer of channels."""

    def __init__(self, width: int, number: int, stage: int, norm: Norm):
        super().__init__()
        self.se: nn.Module = nn.Identity()
        self.mixer: nn.Module
        if number % 2 == 0:
            self.mixer, self.se = RepDW(width, norm), SqueezeExcite(width, rd_ratio=0.25)
        elif stage < 4:
            self.mixer = LSConv(width, norm)
        else:
            self.mixer = Residual(Attention(width, norm))
        self.ffn = Residual(FeedForward(width, norm))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width, H, W] -> the same shape."""
        return self.ffn(self.se(self.mixer(x)))


class LSNet(nn.Module):
    """LSNet without head; random weights, as for training from scratch.

    Args:
        widths: channels of the stages, multiples of 32.
        depths: blocks of the stages; as many as `widths`, at most 4 (only stage 4 has attention).
        norm: width -> batch norm.

    Attributes:
        mean, std: pixel constants (ImageNet's).

    Raises:
        ValueError: widths or depths it cannot be built with.
    """

    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, widths: Sequence[int], depths: Sequence[int], norm: Norm = nn.BatchNorm2d):
        super().__init__()
        if not 1 <= len(widths) == len(depths) <= 4 or any(width % 32 or width < 1 for width in widths):
            raise ValueError(f"widths {widths}, depths {depths}: 1 to 4 of each are needed, widths multiples of 32")
        self.widths, self.depths = tuple(widths), tuple(depths)
        first = widths[0]
        steps = (3, first // 4, first // 2, first)
        layers = [ConvNorm(a, b, norm, 3, 2) for a, b in zip(steps, steps[1:])]
        self.patch_embed = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
        for stage, (width, depth) in enumerate(zip(widths, depths), start=1):
            parts: list[nn.Module] = [Block(width, number, stage, norm) for number in range(depth)]
            if stage > 1:
                before = widths[stage - 2]
                parts = [ConvNorm(before, before, norm, 3, 2, before), ConvNorm(before, width, norm), *parts]
            self.add_module(f"blocks{stage}", nn.Sequential(*parts))

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """Outputs of the stages, [B, widths[i], H / 8 / 2^i, W / 8 / 2^i] with sides rounded up.

        Args:
            images: [B, 3, H, W] of any size, normalised with `mean` and `std`.
        """
        x, outputs = self.patch_embed(images), []
        for stage in range(1, len(self.widths) + 1):
            x = getattr(self, f"blocks{stage}")(x)
            outputs.append(x)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """Mean of the last stage, [B, widths[-1]]."""
        return self.forward_features(images)[-1].mean(dim=(2, 3))

    def fuse(self) -> LSNet:
        """Fold batch norms and parallel branches into single convolutions, in place; for inference alone.

        Raises:
            ValueError: in training mode, in which batch norm is no fixed map.
        """
        if self.training:
            raise ValueError("LSNet.fuse() needs eval mode; call .eval() first")
        _fuse(self)
        return self


def _fuse(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, ConvNorm | RepDW):
            setattr(module, name, child.fused())
        else:
            _fuse(child)


def _register(name: str) -> None:
    def make(**options) -> LSNet:
        return LSNet(**{**SIZES[name], **options})

    make.__doc__ = f"LSNet with the widths and depths of `{name}`. `options` as :class:`LSNet`'s."
    BACKBONES.register_module(name, module=make)


for _name in SIZES:
    _register(_name)
