"""Occluded-Market (github.com/LiuDHS/Occluded-Market-Dataset): occluded images of Market-1501 and MARS."""

from occplug.datasets.common import MARKET_LAYOUT, Counts, ReidDataset
from occplug.datasets.layouts import Layout, Part
from occplug.registry import DATASETS

__all__ = ["OccludedMarket"]


@DATASETS.register_module("occluded_market")
class OccludedMarket(ReidDataset):
    """Occluded training images and queries of Market-1501 and MARS, against the gallery of Market-1501."""

    name = "occluded_market"
    folders = ("Occluded_Market", "Occluded-Market-Dataset", "Occluded-Market1501")
    layouts = (
        Layout((Part("occluded_train"),), Part("occluded_query"), Part("bounding_box_test")),
        MARKET_LAYOUT,
    )
    cameras_of = "market1501"
    published = {  # images: lengths of the official lists
        "train": Counts(images=9287, cameras=6),
        "query": Counts(images=2343, cameras=6),
        "gallery": Counts(images=15913, ids=750, cameras=6),
    }
