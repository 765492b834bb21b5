"""Heads: features in, named outputs out."""

from occplug.heads.attribute_encoder import AttributeEncoder
from occplug.heads.bnneck import BNNeck

__all__ = ["AttributeEncoder", "BNNeck"]
