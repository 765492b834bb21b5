"""Heads: features in, named outputs out."""

from occplug.heads.attribute_encoder import AttributeEncoder
from occplug.heads.bnneck import BNNeck
from occplug.heads.hybrid_decoder import HybridDecoder
from occplug.heads.part_heads import PartNorm, PartVisibility
from occplug.heads.part_pooling import CosinePooling, MaskPooling, PartRows, cosine_maps, weighted_average_pool

__all__ = [
    "AttributeEncoder",
    "BNNeck",
    "CosinePooling",
    "HybridDecoder",
    "MaskPooling",
    "PartNorm",
    "PartRows",
    "PartVisibility",
    "cosine_maps",
    "weighted_average_pool",
]
