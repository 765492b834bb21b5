"""Occluded-REID (Zhuo et al., "Occluded Person Re-identification", ICME 2018, arXiv 1804.02792)."""

from occplug.datasets.common import FOLDER_CAMERAS, Counts, ReidDataset
from occplug.datasets.layouts import Layout, Part
from occplug.registry import DATASETS

__all__ = ["OccludedREID"]

_OCCLUDED, _WHOLE = 0, 2  # cameras in DPM's renamed release; its camera embedding needs these very numbers
_RAW_QUERY = Part("occluded_body_images", _OCCLUDED, nested=True)
_RAW_GALLERY = Part("whole_body_images", _WHOLE, nested=True)


@DATASETS.register_module("occluded_reid")
class OccludedREID(ReidDataset):
    """200 identities, each with 5 occluded (query) and 5 whole-body images (gallery); usually trained on Market-1501.

    The release has no cameras. Names of the renamed layout (`0001_c1s1_000050_00.tif`) carry them.
    """

    name = "occluded_reid"
    folders = ("Occluded_REID", "OccludedREID")
    layouts = (
        Layout((), _RAW_QUERY, _RAW_GALLERY),
        Layout((), Part("query", _OCCLUDED), Part("bounding_box_test", _WHOLE)),
        Layout((), Part("query", _OCCLUDED), Part("gallery", _WHOLE)),
    )
    pattern = FOLDER_CAMERAS
    cameras_of = "market1501"  # DPM's official test gives these numbers to an embedding of Market-1501's cameras
    published = {"query": Counts(images=1000, ids=200, cameras=1), "gallery": Counts(images=1000, ids=200, cameras=1)}
