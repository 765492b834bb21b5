"""Heads: features in, named outputs out."""

from occplug.heads.attribute_encoder import AttributeEncoder
from occplug.heads.bnneck import BNNeck
from occplug.heads.hybrid_decoder import HybridDecoder
from occplug.heads.mask_generator import MaskGenerator
from occplug.heads.masked_metric import MASK_CHOICES, MaskedMetric
from occplug.heads.part_heads import PartNorm, PartVisibility
from occplug.heads.part_pooling import CosinePooling, MaskPooling, PartRows, cosine_maps, weighted_average_pool
from occplug.heads.saliency import SaliencyNet

__all__ = [
    "MASK_CHOICES",
    "AttributeEncoder",
    "BNNeck",
    "CosinePooling",
    "HybridDecoder",
    "MaskGenerator",
    "MaskedMetric",
    "MaskPooling",
    "PartNorm",
    "PartRows",
    "PartVisibility",
    "SaliencyNet",
    "cosine_maps",
    "weighted_average_pool",
]
