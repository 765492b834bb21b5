"""Heads: features in, named outputs out."""

from occplug.heads.bnneck import BNNeck
from occplug.heads.mask_generator import MaskGenerator
from occplug.heads.saliency import SaliencyNet

__all__ = ["BNNeck", "MaskGenerator", "SaliencyNet"]
