"""Cut-outs in the sizes they are pasted in: resizing them and softening their borders is most of the work of pasting.

A cut-out has some eighty sizes in images of one size, as both its sides are whole pixels. Made ahead, before loading
processes are forked, they are there for all of these; results are the same to the bit.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from occplug.occluders import Cutout, Library
from occplug.transforms.pasting import shaped
from occplug.utils.measuring import GB, room_ahead

__all__ = ["Shapes"]

log = logging.getLogger(__name__)

Size = tuple[int, int]  # height, width


class Shapes:
    """The cut-outs of `library` as :func:`pasting.shaped` gives them, with borders of `feather`."""

    def __init__(self, library: Library, feather: float | None):
        self.library, self.feather = library, feather

    def __call__(self, cutout: Cutout, size: Size) -> np.ndarray:
        """uint8 [5, height, width], not to be changed."""
        kept = self.library.kept.get((id(cutout), self.feather, *size))
        return shaped(cutout.rgba, *size, self.feather) if kept is None else kept

    def keep(self, wanted: Sequence[tuple[Cutout, Size]]) -> None:
        """Make these ahead, as far as there is memory for them."""
        kept = self.library.kept
        room = room_ahead() - sum(shape.nbytes for shape in kept.values())
        made = 0
        for cutout, size in wanted:
            key = (id(cutout), self.feather, *size)
            if key not in kept and room > 0:
                kept[key] = shaped(cutout.rgba, *size, self.feather)
                made, room = made + 1, room - kept[key].nbytes
        if made:
            taken = sum(shape.nbytes for shape in kept.values()) / GB
            log.info("occluders: %d of %d sizes made ahead; all that are kept take %.2f GB", made, len(wanted), taken)
