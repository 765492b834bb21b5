"""Heads: features in, named outputs out."""

from occplug.heads.attribute_encoder import AttributeEncoder
from occplug.heads.bnneck import BNNeck
from occplug.heads.hybrid_decoder import HybridDecoder
from occplug.heads.mask_generator import MaskGenerator
from occplug.heads.masked_metric import MASK_CHOICES, MaskedMetric
from occplug.heads.part_decoders import build_decoder, visibility_by
from occplug.heads.part_heads import PartNorm, PartVisibility
from occplug.heads.part_pooling import CosinePooling, MaskPooling, PartRows, cosine_maps, weighted_average_pool
from occplug.heads.saliency import SaliencyNet
from occplug.heads.text_space import TextSpace

__all__ = [
    "TextSpace",
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
    "build_decoder",
    "cosine_maps",
    "visibility_by",
    "weighted_average_pool",
]
