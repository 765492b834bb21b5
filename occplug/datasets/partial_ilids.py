"""Partial-iLIDS (He et al., "Deep Spatial Feature Reconstruction for Partial Person Re-identification", CVPR 2018)."""

from occplug.datasets.common import FOLDER_CAMERAS, Counts, ReidDataset
from occplug.datasets.layouts import Layout, Part
from occplug.registry import DATASETS

__all__ = ["PartialILIDS"]


@DATASETS.register_module("partial_ilids")
class PartialILIDS(ReidDataset):
    """119 identities of i-LIDS with one cut-out image (query, camera 0) and one whole image (gallery, camera 1)."""

    name = "partial_ilids"
    folders = ("Partial_iLIDS", "PartialiLIDS")
    layouts = (
        Layout((), Part("Probe", 0), Part("Gallery", 1)),
        Layout((), Part("partial_body_images", 0), Part("whole_body_images", 1)),
        Layout((), Part("query", 0), Part("gallery", 1)),
    )
    pattern = FOLDER_CAMERAS
    published = {"query": Counts(images=119, ids=119, cameras=1), "gallery": Counts(images=119, ids=119, cameras=1)}
    _junk_pids = [-1]  # numbered by the authors: a 0 would be a person
