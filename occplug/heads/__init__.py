"""Heads: features in, named outputs out."""

from occplug.heads.bnneck import BNNeck

__all__ = ["BNNeck"]
