"""Occluded-Duke (Miao et al., "Pose-Guided Feature Alignment for Occluded Person Re-Identification", ICCV 2019)."""

from occplug.datasets.common import Counts, ReidDataset
from occplug.registry import DATASETS

__all__ = ["OccludedDuke"]


@DATASETS.register_module("occluded_duke")
class OccludedDuke(ReidDataset):
    """DukeMTMC-reID split by the authors' name lists: all queries and a tenth of the gallery are occluded."""

    name = "occluded_duke"
    folders = ("Occluded_Duke", "Occluded-DukeMTMC-reID", "Occluded-DukeMTMC", "Occluded-DukeMTMC-Dataset", "occ_duke")
    cameras_of = "dukemtmcreid"
    published = {  # counted from the official lists
        "train": Counts(images=15618, ids=702, cameras=8),
        "query": Counts(images=2210, ids=519, cameras=8),
        "gallery": Counts(images=17661, ids=1110, cameras=8),
    }
