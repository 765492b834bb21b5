"""Cut-outs from a folder of photographs by torchvision's Mask R-CNN."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from torch import Tensor, nn

from occplug.errors import CheckpointError, DataError
from occplug.occluders.categories import read_categories
from occplug.occluders.filters import PER_CATEGORY, Candidate, cut, largest, reason_against
from occplug.occluders.writing import Piece, trimmed
from occplug.utils.files import user_path
from occplug.utils.imagefile import read_image
from occplug.utils.integrity import check_archive

__all__ = ["DetectedObjects", "mask_rcnn"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
LEAST_SCORE, LEAST_MASK = 0.9, 0.5


def mask_rcnn(weights: str = "") -> nn.Module:
    """torchvision's Mask R-CNN with ResNet-50 FPN, of COCO's 91 classes, in eval mode.

    Args:
        weights: a state dict file; empty: torchvision's own, downloaded at first use.

    Raises:
        CheckpointError: the file is not such a state dict, or the download fails; names the cure.
    """
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights, maskrcnn_resnet50_fpn

    published = MaskRCNN_ResNet50_FPN_Weights.DEFAULT
    try:
        if not weights:
            return maskrcnn_resnet50_fpn(weights=published).eval()
        model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
        check_archive(user_path(weights))
        model.load_state_dict(torch.load(user_path(weights), map_location="cpu", weights_only=True))
        return model.eval()
    except (OSError, RuntimeError, ValueError, EOFError, TypeError, UnpicklingError) as error:
        unreadable = isinstance(error, UnpicklingError | EOFError | TypeError)
        reason = "not a state dict file" if unreadable else str(error).partition("\n")[0]
        what = weights or f"the download of {published.url}"
        cure = f"download {published.url} where there is a network, and give the file with --weights"
        raise CheckpointError(f"Mask R-CNN has no weights: {what}: {reason}; {cure}") from error


class DetectedObjects:
    """The objects that a detector finds in a folder of photographs and that make good occluders.

    Iterating detects in all images first, then yields the largest objects of each category.

    Args:
        images: folder, searched with its subfolders.
        detector: images (float [3, H, W] in [0, 1]) -> one dict each of `boxes` [N, 4], `labels` [N], `scores` [N] and
            `masks` [N, 1, H, W], as torchvision's detectors.
        names: category name of every label.
        categories, per_category: as `AnnotatedObjects`.
        licence: of the photographs, for the index.
        progress: wraps the list of files, to show how far the detector is.

    Raises:
        DataError: no image; while iterating, no object is left.
    """

    def __init__(
        self, images, detector, names, categories="", per_category=PER_CATEGORY, licence="unknown", progress=iter
    ):
        self.folder = user_path(images)
        self.files = sorted(file for file in self.folder.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not self.files:
            raise DataError(f"{images}: there is no image in the folder ({', '.join(SUFFIXES)})")
        self.detector, self.names, self.table = detector, list(names), read_categories(categories)
        self.per_category, self.licence, self.progress = per_category, licence, progress

    def __iter__(self) -> Iterator[Piece]:
        candidates = largest((c for file in self.progress(self.files) for c in self._detect(file)), self.per_category)
        if not candidates:
            raise DataError(f"{self.folder}: no object is left in {len(self.files)} images after the filters")
        for candidate in candidates:
            picture = np.asarray(read_image(candidate.image))
            left, top, right, bottom = candidate.box
            mask = np.zeros(picture.shape[:2], np.uint8)
            mask[top:bottom, left:right] = candidate.shape
            yield Piece(candidate.category, trimmed(cut(picture, mask, candidate.box)), candidate.note, self.licence)

    @torch.inference_mode()
    def _detect(self, file: Path) -> Iterator[Candidate]:
        picture = read_image(file)
        pixels = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy()).float() / 255
        (detections,) = self.detector([pixels])
        for label, score, mask in zip(
            detections["labels"].tolist(), detections["scores"].tolist(), detections["masks"]
        ):
            name = self.names[label] if label < len(self.names) else None
            if score < LEAST_SCORE or name is None or name not in self.table:
                continue
            candidate = _candidate(name, file, mask[0] >= LEAST_MASK, {"image": file.name, "score": round(score, 3)})
            if candidate is not None and reason_against(candidate, picture.size, self.table) is None:
                yield candidate


def _candidate(name: str, file: Path, mask: Tensor, note: dict) -> Candidate | None:
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if not len(rows):
        return None
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    inside = mask[box[1] : box[3], box[0] : box[2]].numpy().astype(np.uint8) * 255
    return Candidate(name, str(file), box, int((inside > 0).sum()), inside, note)
