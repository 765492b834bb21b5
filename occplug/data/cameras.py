"""Which row of a camera embedding (`backbone.sie_camera`) an image of a test set takes.

Cameras are numbered within their data set; the embedding has the rows of all sources one after the other. A camera
number therefore means a row only together with its data set:

* a source's cameras have the rows that they were trained with, in training and in the test;
* a set whose cameras stand for those of a source (`ReidDataset.cameras_of`) has that source's rows;
* all others have the mean row, and the protocol line says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from occplug.backbones.tower import MEAN_CAMERA
from occplug.datasets.by_path import dataset_class, is_ours
from occplug.errors import DataError
from occplug.registry import model_class

__all__ = [
    "CameraRows",
    "camera_input",
    "check_cameras",
    "describe_cameras",
    "given_rows",
    "rows_of_sources",
    "sees_cameras",
    "to_rows",
]

log = logging.getLogger(__name__)

# source -> (its first row, number of its cameras)
CameraRows = Mapping[str, tuple[int, int]]


def sees_cameras(cfg) -> bool:
    """Whether the model of `cfg` is given the camera of a test image."""
    return model_class(cfg.model.name).takes_cameras(cfg)


def rows_of_sources(sources: Sequence[str], cameras: Sequence[int]) -> dict[str, tuple[int, int]]:
    """The rows of each of `sources`, from the camera numbers of all of them one after the other.

    For files that hold no more than these. A source's numbers rise, so the next one starts where they do not; if that
    gives another number of sets than there are sources, which camera is whose is not known, and the result is empty.
    """
    starts = [row for row, number in enumerate(cameras) if not row or number <= cameras[row - 1]]
    if len(starts) != len(sources):
        return {}
    ends = [*starts[1:], len(cameras)]
    return {name: (start, end - start) for name, start, end in zip(sources, starts, ends)}


def given_rows(target: str, rows: CameraRows) -> tuple[int, int] | None:
    """(first row, number) for the cameras of `target`; None where it has none, so that the mean row stands for them."""
    source = _source_of(target, rows)
    return None if source is None else rows[source]


def _source_of(target: str, rows: CameraRows) -> str | None:
    """The source whose rows are those of `target`: itself, or one with the same cameras."""
    if target in rows:
        return target
    return next((source for source in rows if _network(source) == _network(target)), None)


def _network(name: str) -> str:
    known = dataset_class(name) if is_ours(name) else None
    return getattr(known, "cameras_of", "") or name


def to_rows(target: str, rows: CameraRows) -> Callable[[Tensor], Tensor]:
    """Cameras [B] of images of `target` -> rows [B] for `Method.embed`.

    The function raises DataError for a camera that the source has not.
    """
    place = given_rows(target, rows)
    if place is None:
        log.warning(
            "%s is no source of this model, so the mean of the camera embedding's rows stands for its cameras", target
        )

    def convert(camids: Tensor) -> Tensor:
        """Rows [B] of the cameras `camids` [B]; the mean row for a target that is no source."""
        if place is None:
            return torch.full_like(camids, MEAN_CAMERA)
        first, count = place
        if count == 1:  # the row that stood for all training images, also for those of unknown camera
            camids = camids.clamp(min=0)
        unknown = camids[(camids < 0) | (camids >= count)]
        if len(unknown):
            raise DataError(
                f"{target} has the camera {int(unknown[0])} (counted from 0), and backbone.sie_camera learnt "
                f"{count} cameras of its training images; set backbone.sie_camera False or test on another data set"
            )
        return camids + first

    return convert


def camera_input(cfg, target: str, rows: CameraRows) -> Callable[[Tensor], Tensor]:
    """Cameras [B] of images of `target` -> what the model of `cfg` is given for them; as they are if it reads none."""
    return to_rows(target, rows) if sees_cameras(cfg) else lambda camids: camids


def describe_cameras(targets: Sequence[str], rows: CameraRows) -> str:
    """What the protocol line says of the cameras of `targets` after `camera input`."""
    mean = [name for name in targets if given_rows(name, rows) is None]
    lent = [f"{_source_of(name, rows)} for {name}" for name in targets if name not in rows and name not in mean]
    said = [f"mean row for {', '.join(mean)}"] * bool(mean) + [f"rows of {', '.join(lent)}"] * bool(lent)
    return f"yes ({'; '.join(said)})" if said else "yes"


def check_cameras(cfg, data) -> None:
    """Raise DataError before training for a test camera of a source that the camera embedding gets no row for.

    Args:
        data: the data manager; `camera_rows` and `test_dataset` are read.
    """
    if not sees_cameras(cfg):
        return
    for target, sides in data.test_dataset.items():
        camids = sorted({row[2] for side in sides.values() for row in side})
        to_rows(target, data.camera_rows)(torch.tensor(camids))
