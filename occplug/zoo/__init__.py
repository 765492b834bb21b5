"""The model zoo: published and measured rows, and the weights that belong to them."""

from occplug.zoo.index import FIGURES, INDEX, Checkpoint, Entry, Index, Measured, Published, Run, read_index

__all__ = ["FIGURES", "INDEX", "Checkpoint", "Entry", "Index", "Measured", "Published", "Run", "read_index"]
