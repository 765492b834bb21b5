"""Poses and person masks by torchvision's keypoint R-CNN and Mask R-CNN."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from occplug.errors import CheckpointError
from occplug.masks.confidences import Person
from occplug.utils.files import user_path
from occplug.utils.integrity import check_archive

__all__ = ["PersonDetector", "load_detector"]

# what torch's safe unpickler raises on files of other kinds
_NOT_A_FILE_OF_TENSORS = (UnpicklingError, EOFError, ValueError, LookupError, AttributeError, TypeError)
_PERSON = 1  # COCO's label
_LEAST_SCORE = 0.3
_VISIBLE = 2.0  # heat map score at which a keypoint is as likely visible as not
_SHORT_SIDE, _LONG_SIDE = 384, 768  # crops are enlarged to this; the models expect people of a few hundred pixels


def load_detector(kind: str, weights: str = "") -> nn.Module:
    """torchvision's R-CNN with ResNet-50 FPN trained on COCO, in eval mode.

    Args:
        kind: "keypoint" or "mask".
        weights: a state dict file; empty: torchvision's, from its cache or downloaded into it.

    Raises:
        CheckpointError: no such file and no download, or not the model's state dict; says which file goes where.
    """
    from torchvision.models import detection

    build = {"keypoint": detection.keypointrcnn_resnet50_fpn, "mask": detection.maskrcnn_resnet50_fpn}[kind]
    published = {
        "keypoint": detection.KeypointRCNN_ResNet50_FPN_Weights.DEFAULT,
        "mask": detection.MaskRCNN_ResNet50_FPN_Weights.DEFAULT,
    }[kind]
    model = build(weights=None, weights_backbone=None, min_size=_SHORT_SIDE, max_size=_LONG_SIDE)
    place = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(published.url)
    cure = f"fetch {published.url} elsewhere and put it at {place}, or name the file with --{kind}-weights"
    try:
        if weights:
            check_archive(user_path(weights))
            state = torch.load(user_path(weights), map_location="cpu", weights_only=True)
        else:
            state = published.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError, *_NOT_A_FILE_OF_TENSORS) as error:
        reason = "not a state dict file" if isinstance(error, _NOT_A_FILE_OF_TENSORS) else str(error)
        what = weights or f"torchvision's weights of {kind} R-CNN cannot be downloaded"
        raise CheckpointError(f"{what}: {reason.strip().splitlines()[0]}; {cure}") from error
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{weights or place}: not the weights of torchvision's {kind} R-CNN; {cure}") from error
    return model.eval()


class PersonDetector:
    """The person nearest to the middle of an image: what a person crop is meant to show.

    Args:
        keypoint, mask: R-CNNs as `load_detector` gives them.
    """

    def __init__(self, keypoint: nn.Module, mask: nn.Module):
        self.keypoint, self.mask = keypoint, mask

    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor]) -> list[Person | None]:
        """float [3, H, W] in [0, 1] each -> the person in each; None where one of the models finds none."""
        device = next(self.keypoint.parameters()).device
        images = [image.to(device) for image in images]
        pairs = zip(images, self.keypoint(images), self.mask(images))
        return [_person(image, pose, masks) for image, pose, masks in pairs]


def _person(image: Tensor, pose: dict, masks: dict) -> Person | None:
    whose, which = _central(pose, image), _central(masks, image)
    if whose is None or which is None:
        return None
    places = pose["keypoints"][whose, :, :2]
    sure = (pose["keypoints_scores"][whose] - _VISIBLE).sigmoid()
    _, top, _, bottom = pose["boxes"][whose].tolist()
    keypoints = torch.cat([places, sure[:, None]], dim=1).float().cpu()
    return Person(keypoints, masks["masks"][which, 0].float().cpu(), max(bottom - top, 1.0))


def _central(detections: dict, image: Tensor) -> int | None:
    """Number of the detected person whose box has its centre nearest to that of the image."""
    candidates = ((detections["labels"] == _PERSON) & (detections["scores"] >= _LEAST_SCORE)).nonzero()[:, 0]
    if not len(candidates):
        return None
    boxes = detections["boxes"][candidates]
    middle = torch.tensor([image.shape[2] / 2, image.shape[1] / 2], device=boxes.device)
    return int(candidates[((boxes[:, :2] + boxes[:, 2:]) / 2 - middle).norm(dim=1).argmin()])
