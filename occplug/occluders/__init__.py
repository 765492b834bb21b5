"""Occluders as cut-outs: what they are, libraries of them, and how libraries are made."""

from occplug.occluders.categories import Category, read_categories
from occplug.occluders.library import Cutout, Library, read_library
from occplug.occluders.writing import Piece, trimmed, write_library

__all__ = ["Category", "Cutout", "Library", "Piece", "read_categories", "read_library", "trimmed", "write_library"]
