"""`occplug make-masks`: part masks of a data set or a folder of images, by torchvision's pose and mask models."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from occplug.errors import ConfigError, DataError
from occplug.utils.files import user_path

if TYPE_CHECKING:
    from occplug.masks.detectors import PersonDetector
    from occplug.masks.making import Job, Predictor

__all__ = ["main"]

DIRECTORY = "keypointrcnn_maskrcnn"


def main(argv: list[str], predictor: Predictor | None = None) -> None:
    """Parse `argv` and make what is missing.

    Args:
        predictor: in place of torchvision's models, as `make_masks` takes it.

    Raises:
        ConfigError: flags that do not go together.   DataError: no images, or one that cannot be read.
        CheckpointError: weights that are not there.
    """
    parser = _parser()
    args = parser.parse_args(argv)

    from occplug.masks.making import make_masks, write_sheet
    from occplug.runs.session import start_logging
    from occplug.utils.body_parts import SCHEMES

    if args.scheme not in SCHEMES:
        raise ConfigError(f"--scheme is {args.scheme!r}; there are: {', '.join(SCHEMES)}")
    start_logging()
    jobs = _jobs(args)
    waiting = sum(not job.mask.exists() for job in jobs)
    print(f"{len(jobs)} images, {len(jobs) - waiting} have masks already")
    if waiting:
        predictor = predictor or _detector(args)
        empty = make_masks(jobs, predictor, tuple(args.size), args.batch_size, _progress)
        print(f"{waiting} masks made in {_target(jobs)}, {empty} of them empty because no person was detected")
    if args.sheet is not None:
        write_sheet(args.sheet, jobs, args.scheme)
        print(f"{args.sheet} shows some of them; look at it before training")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "occplug make-masks",
        description="Make part masks with torchvision's keypoint R-CNN and Mask R-CNN: confidences of 17 keypoints and "
        "19 limbs times the person's mask, one .npy file per image, as methods with masks.source files read them. An "
        "interrupted run goes on where it stopped.",
        allow_abbrev=False,
    )
    parser.add_argument("--set", metavar="NAME", help="a data set by name; its training images get masks")
    parser.add_argument("--root", metavar="DIR", default="reid-data", help="folder that holds the data set (data.root)")
    parser.add_argument("--all", action="store_true", help="query and gallery too; training does not need them")
    parser.add_argument("--directory", default=DIRECTORY, help="below the data set's masks/; set masks.directory to it")
    parser.add_argument(
        "--images", metavar="DIR", type=user_path, help="a folder of images, with subfolders, in place of --set"
    )
    parser.add_argument("--out", metavar="DIR", type=user_path, help="where masks go; needed with --images")
    parser.add_argument("--size", nargs=2, type=int, default=[32, 16], metavar=("H", "W"), help="of the maps")
    parser.add_argument("--batch-size", type=int, default=4, help="images at once")
    parser.add_argument("--keypoint-weights", default="", metavar="FILE", help="default: torchvision's download")
    parser.add_argument("--mask-weights", default="", metavar="FILE", help="default: torchvision's download")
    parser.add_argument("--sheet", type=user_path, metavar="FILE.png", help="a picture of 24 images with their parts")
    parser.add_argument("--scheme", default="five_v", metavar="NAME", help="grouping the sheet shows (five_v)")
    return parser


def _jobs(args) -> list[Job]:
    from occplug.masks.files import find_mask_files, mask_names
    from occplug.masks.making import Job

    if (args.set is None) == (args.images is None):
        raise ConfigError("give either --set NAME (with --root DIR) or --images DIR (with --out DIR)")
    if min(*args.size, args.batch_size) < 1:
        raise ConfigError("--size and --batch-size must be at least 1")
    if args.images is not None:
        if args.out is None:
            raise ConfigError("--images needs --out DIR, the folder for the masks")
        images, base, out = list(_images(args.images)), args.images, args.out
    else:
        images, base = _of_data_set(args)
        out = args.out or base / "masks" / args.directory
    if not images:
        raise DataError(f"{base}: there are no {'' if args.all or args.images else 'training '}images in it")
    below = [PurePath(os.path.relpath(image, base)) for image in images]
    present = find_mask_files(str(out), [str(name) for name in below])  # under any name that training would read
    jobs = []
    for image, name in zip(images, below):
        file = present[str(name)]
        jobs.append(Job(image, Path(file.path) if file else out / name.parent / mask_names(name.name)[0]))
    _refuse_shared_masks(jobs)
    return jobs


def _refuse_shared_masks(jobs: list[Job]) -> None:
    first: dict[Path, Path] = {}
    for image, mask in jobs:
        other = first.setdefault(mask, image)
        if other != image:
            raise DataError(f"{other} and {image} would have the same mask file; rename one of them")


def _images(folder: Path) -> Iterator[Path]:
    from occplug.datasets.listing import IMAGE_ENDINGS  # imports torchreid, which takes seconds

    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    yield from sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)


def _of_data_set(args) -> tuple[list[Path], Path]:
    from occplug.datasets.by_path import dataset_class

    data = dataset_class(args.set)(root=args.root, mode="query", verbose=False)
    items = [*data.train, *data.query, *data.gallery] if args.all else data.train
    return [Path(item[0]) for item in items], Path(data.dataset_dir)


def _detector(args) -> PersonDetector:
    import torch

    from occplug.masks.detectors import PersonDetector, load_detector

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = (load_detector(kind, getattr(args, f"{kind}_weights")).to(device) for kind in ("keypoint", "mask"))
    return PersonDetector(*models)


def _progress(batches: Iterable):
    from tqdm import tqdm

    return tqdm(batches, "masks", unit="batch")


def _target(jobs: list[Job]) -> str:
    return os.path.commonpath([job.mask.parent for job in jobs])
