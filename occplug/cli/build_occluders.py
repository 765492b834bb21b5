"""`occplug build-occluders`: make an occluder library."""

from __future__ import annotations

import argparse
import functools

from occplug.errors import ConfigError

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, build, and say how many cut-outs of each category there are."""
    args = _parser().parse_args(argv)

    from tqdm import tqdm

    from occplug.occluders.writing import write_library
    from occplug.runs.session import start_logging

    if getattr(args, "per_category", 1) < 1 or getattr(args, "seed", 0) < 0:
        raise ConfigError("--per-category must be at least 1, and --seed at least 0")
    start_logging()
    pieces = tqdm(SOURCES[args.source](args), desc="cut-outs", unit="")
    counts = write_library(args.output, pieces, args.split)
    total = sum(counts.values())
    print(f"{args.output}: {total} cut-outs of {len(counts)} categories, split {args.split!r}")
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    print(f"use it: augment.rwoa.library {args.output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("occplug build-occluders", description="Make an occluder library.")
    sources = parser.add_subparsers(dest="source", required=True, metavar="SOURCE")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--output", required=True, metavar="DIR", help="the new library; must not exist yet")
    shared.add_argument("--split", default="train", help="training uses only cut-outs of split train")
    sorted_out = argparse.ArgumentParser(add_help=False)
    sorted_out.add_argument("--categories", default="", metavar="F", help="another category table (yaml)")
    several = argparse.ArgumentParser(add_help=False)
    several.add_argument("--per-category", default=200, type=int, metavar="N", help="at most, the largest first")

    coco = sources.add_parser(
        "coco", parents=[shared, sorted_out, several], help="from COCO-format instance annotations"
    )
    coco.add_argument("--annotations", required=True, metavar="JSON", help="e.g. instances_train2017.json")
    coco.add_argument("--images", required=True, metavar="DIR", help="the images that it names")
    folder = sources.add_parser(
        "folder", parents=[shared, sorted_out], help="from RGBA pictures, named or sorted by category"
    )
    folder.add_argument("--pictures", required=True, metavar="DIR")
    folder.add_argument("--licence", default="unknown")
    folder.add_argument(
        "--rename", nargs="*", default=[], metavar="A=B", help="category A in the names is B in the table"
    )
    drawn = sources.add_parser("procedural", parents=[shared], help="drawn, without any data")
    drawn.add_argument("--seed", default=1, type=int, help="1 is the library that comes with the package")
    drawn.add_argument("--per-category", default=6, type=int, metavar="N")
    drawn.add_argument("--side", default=144, type=int, metavar="PIXELS")
    detected = sources.add_parser(
        "mask-rcnn", parents=[shared, sorted_out, several], help="objects that Mask R-CNN detects in photographs"
    )
    detected.add_argument("--images", required=True, metavar="DIR")
    detected.add_argument("--weights", default="", metavar="F", help="torchvision's state dict; default: download")
    detected.add_argument("--licence", default="unknown")
    return parser


def _coco(args):
    from occplug.occluders.annotations import AnnotatedObjects

    return AnnotatedObjects(args.annotations, args.images, args.categories, args.per_category)


def _folder(args):
    from occplug.occluders.pictures import CutoutPictures

    pairs = [pair.partition("=") for pair in args.rename]
    if not all(name and equals and other for name, equals, other in pairs):
        raise ConfigError(f"--rename takes pairs such as pole=post; it got {' '.join(args.rename)}")
    return CutoutPictures(args.pictures, args.categories, args.licence, {a: b for a, _, b in pairs})


def _procedural(args):
    from occplug.occluders.procedural import pieces

    if args.side < 16:
        raise ConfigError(f"--side is {args.side}; it must be at least 16")
    return pieces(args.seed, args.per_category, args.side)


def _mask_rcnn(args):
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights
    from tqdm import tqdm

    from occplug.occluders.detector import DetectedObjects, mask_rcnn

    names = MaskRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    progress = functools.partial(tqdm, desc="images", unit="")
    rest = (args.categories, args.per_category, args.licence, progress)
    return DetectedObjects(args.images, mask_rcnn(args.weights), names, *rest)


SOURCES = {"coco": _coco, "folder": _folder, "procedural": _procedural, "mask-rcnn": _mask_rcnn}
