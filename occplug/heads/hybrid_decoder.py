"""ProFD's hybrid-attention decoder: part queries from texts, part features from patches.

arXiv 2409.20081, section 4.2.1, in the form of the official code (which projects the spatial query twice, normalises
between the steps and drops out attention weights).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occplug.errors import ConfigError
from occplug.heads.part_pooling import PartRows
from occplug.registry import HEADS

__all__ = ["HybridDecoder"]


@HEADS.register_module("hybrid_decoder")
class HybridDecoder(nn.Module):
    """Layers of reverse, semantic and spatial attention over patches.

        mem = LN(Linear(LN(F)))        x = Linear(LN(E))       then the layers        rows = Linear(LN(x))

    Args:
        width: D of patches, queries and rows; a multiple of `heads`.
        layers: number of layers.
        heads: of every attention but the spatial one, which has a single head.
        dropout: share of attention weights and of MLP outputs that training drops.
        semantic, spatial: which of the two attentions the layers have (ProFD's table 3); at least one.
        dropped_maps: hand out the spatial attention after dropout, as the official code supervises it, and not the
            clean one.

    Raises:
        ConfigError: a width that the heads do not divide.
    """

    def __init__(
        self,
        width: int,
        layers: int = 2,
        heads: int = 8,
        dropout: float = 0.1,
        semantic: bool = True,
        spatial: bool = True,
        dropped_maps: bool = False,
    ):
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"method.decoder_heads is {heads}, which does not divide the width {width} of the decoder"
            )
        self.memory_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width))
        self.query_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.layers = nn.ModuleList(
            HybridLayer(width, heads, dropout, semantic, spatial, dropped_maps) for _ in range(layers)
        )
        self.out_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.apply(_initialise)

    def forward(self, queries: Tensor, tokens: Tensor, labels: Tensor | None = None) -> PartRows:
        """
        Args:
            queries: E [K + 2, D], the same for all images.
            tokens: F [B, L, D], patches.
            labels: not used; patch labels in decoders that pool by them.

        Returns: rows [B, K + 2, D]; attention [B, K + 2, L], the spatial maps' mean over the layers, None without them.
        """
        memory = self.memory_proj(tokens)
        x = self.query_proj(queries).expand(tokens.shape[0], -1, -1)
        maps = []
        for layer in self.layers:
            x, attention = layer(x, memory)
            maps.append(attention)
        attention = None if maps[0] is None else torch.stack(maps).mean(dim=0)
        return PartRows(self.out_proj(x), attention)


class HybridLayer(nn.Module):
    """One layer; arguments as :class:`HybridDecoder`'s.

    keys = LN(mem + MHA(mem, x))                          reverse attention; mem itself goes on unchanged
    x = LN(x + MHA(x, mem) + SPA(x, mem))                 semantic and spatial attention
    x = x + MHA(x, keys)
    x = LN(x + MLP(LN(x)))
    """

    def __init__(self, width: int, heads: int, dropout: float, semantic: bool, spatial: bool, dropped_maps: bool):
        super().__init__()

        def attention():
            return nn.MultiheadAttention(width, heads, dropout, batch_first=True)

        self.reverse = attention()
        self.semantic = attention() if semantic else None
        self.spatial = SpatialAttention(width, dropout, dropped_maps) if spatial else None
        self.final = attention()
        self.norm_keys = nn.LayerNorm(width)
        self.norm_hybrid = nn.LayerNorm(width)
        self.norm_mlp = nn.LayerNorm(width)
        self.norm_out = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor | None]:
        """Queries `x` [B, R, D], patches `memory` [B, L, D] -> new queries, spatial attention [B, R, L] or None."""
        keys = self.norm_keys(memory + _attend(self.reverse, memory, x))
        mixed, attention = x, None
        if self.semantic is not None:
            mixed = mixed + _attend(self.semantic, x, memory)
        if self.spatial is not None:
            located, attention = self.spatial(x, memory)
            mixed = mixed + located
        x = self.norm_hybrid(mixed)
        x = x + _attend(self.final, x, keys)
        return self.norm_out(x + self.mlp(self.norm_mlp(x))), attention


class SpatialAttention(nn.Module):
    """Single-head attention whose map over the patches is handed out, for masks to supervise.

    It is computed step by step, because attention modules give away their weights only after dropout: in training the
    official loss sees zeros where a weight was dropped.

    Args:
        width: D.
        dropout: share of the weights that training drops before they mix the values.
        dropped_maps: hand out the weights after dropout.
    """

    def __init__(self, width: int, dropout: float, dropped_maps: bool = False):
        super().__init__()
        self.query = nn.Linear(width, width)
        self.attend = nn.MultiheadAttention(width, 1, batch_first=True)  # holds the parameters, is not called
        self.dropout = nn.Dropout(dropout)
        self.dropped_maps = dropped_maps

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """`x` [B, R, D], `memory` [B, L, D] -> [B, R, D] and the weights [B, R, L]."""
        width = x.shape[2]
        weight, bias = self.attend.in_proj_weight, self.attend.in_proj_bias
        query = F.linear(self.query(x), weight[:width], bias[:width])
        key, value = F.linear(memory, weight[width:], bias[width:]).chunk(2, dim=2)
        clean = (query @ key.transpose(1, 2) / width**0.5).softmax(dim=2)
        dropped = self.dropout(clean)
        return self.attend.out_proj(dropped.to(value.dtype) @ value), dropped if self.dropped_maps else clean


def _attend(attention: nn.MultiheadAttention, query: Tensor, memory: Tensor) -> Tensor:
    return attention(query, memory, memory, need_weights=False)[0]


def _initialise(module: nn.Module) -> None:
    """Linear maps start small; the packed query, key and value maps keep PyTorch's Xavier values."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
