"""P-DukeMTMC-reID (Zhuo et al., "Occluded Person Re-identification", ICME 2018, arXiv 1804.02792)."""

from occplug.datasets.common import Counts, ReidDataset
from occplug.datasets.layouts import Layout, Part
from occplug.registry import DATASETS

__all__ = ["PDukeMTMC"]

_OCCLUDED, _WHOLE = 0, 1
_QUERY = Part("test/occluded_body_images", _OCCLUDED, nested=True)
_GALLERY = Part("test/whole_body_images", _WHOLE, nested=True)
_TRAIN = (
    Part("train/occluded_body_images", _OCCLUDED, nested=True),
    Part("train/whole_body_images", _WHOLE, nested=True),
)


@DATASETS.register_module("p_dukemtmc")
class PDukeMTMC(ReidDataset):
    """Identities of DukeMTMC-reID with both occluded and whole-body images.

    Cameras are the two kinds of image, 0 occluded and 1 whole-body, in all splits, so that nothing is removed by the
    same-camera rule; this is how published figures are made. The cameras in the file names are not used, except for
    the training images of the renamed layout whose name does not end in `_01` (occluded) or `_02` (whole-body).
    """

    name = "p_dukemtmc"
    folders = ("P-DukeMTMC-reid", "P-DukeMTMC")
    layouts = (
        Layout(_TRAIN, _QUERY, _GALLERY),
        Layout((Part("bounding_box_train"),), Part("query", _OCCLUDED), Part("bounding_box_test", _WHOLE)),
    )
    pattern = r"(?P<pid>-?\d+)_(?:(?:c\d_f\d+|\d+)_0(?P<kind>[12])$|c(?P<camera>\d))?"
    published = {
        "train": Counts(images=12927, ids=665, cameras=2),
        "query": Counts(images=2163, ids=634, cameras=1),
        "gallery": Counts(images=9053, ids=634, cameras=1),
    }

    def _camera(self, match, part):
        if part.camera is not None:
            return part.camera
        number = match["kind"] or match["camera"]
        return None if number is None else int(number) - 1
