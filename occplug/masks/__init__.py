"""Part masks: files, groupings and labels, and other sources; any method may ask for them (`Method.extras`)."""

from occplug.masks.labels import CELL, group_channels, part_labels, places, sample_maps
from occplug.masks.part_masks import PartMasks
from occplug.masks.sources import FileMasks, MaskSource, RenderedMasks, Stripes, build_source
from occplug.utils.body_parts import KEYPOINTS, LIMBS, NUM_CHANNELS, SCHEMES

__all__ = [
    "CELL",
    "FileMasks",
    "KEYPOINTS",
    "LIMBS",
    "MaskSource",
    "NUM_CHANNELS",
    "PartMasks",
    "RenderedMasks",
    "SCHEMES",
    "Stripes",
    "build_source",
    "group_channels",
    "part_labels",
    "places",
    "sample_maps",
]
