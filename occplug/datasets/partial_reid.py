"""Partial-REID (Zheng et al., "Partial Person Re-identification", ICCV 2015)."""

from occplug.datasets.common import FOLDER_CAMERAS, Counts, ReidDataset
from occplug.datasets.layouts import Layout, Part
from occplug.registry import DATASETS

__all__ = ["PartialREID"]

_WHOLE = Part("whole_body_images", 1, nested=True)


@DATASETS.register_module("partial_reid")
class PartialREID(ReidDataset):
    """60 identities with 5 cut-out images (queries, camera 0) and 5 whole-body images (gallery, camera 1).

    Queries are the cut-outs in `partial_body_images`; where that folder is missing, the uncut `occluded_body_images`.
    """

    name = "partial_reid"
    folders = ("Partial_REID", "Partial-REID_Dataset", "PartialREID")
    layouts = (
        Layout((), Part("partial_body_images", 0, nested=True), _WHOLE),
        Layout((), Part("occluded_body_images", 0, nested=True), _WHOLE),
        Layout((), Part("query", 0), Part("gallery", 1)),
    )
    pattern = FOLDER_CAMERAS
    published = {"query": Counts(images=300, ids=60, cameras=1), "gallery": Counts(images=300, ids=60, cameras=1)}
    _junk_pids = [-1]  # numbered by the authors: a 0 would be a person
