"""Flags that the commands for a user's images share."""

from __future__ import annotations

import argparse
import logging
import os

from occplug.cli.arguments import WEIGHTS, at_least
from occplug.errors import CheckpointError, DataError, OutputError
from occplug.utils.files import user_path

__all__ = [
    "INPUTS",
    "add_embedding",
    "add_model",
    "check_outputs",
    "embed_with",
    "kept_rows",
    "model_behind",
    "parse",
    "print_skipped",
    "read_columns",
]

_log = logging.getLogger(__name__)

INPUTS = "images, folders (all their images), and coco:FILE, boxes of people in frames"


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """The namespace of `argv`; argparse itself ends with status 2 at an unknown flag."""
    return parser.parse_args(argv)


def add_model(parser: argparse.ArgumentParser, required: bool) -> None:
    """`--weights`, `--config-file` and `--device`."""
    text = WEIGHTS if required else f"{WEIGHTS}; by default the weights that the gallery was embedded with"
    parser.add_argument("--weights", required=required, metavar="W", help=text)
    parser.add_argument("--config-file", metavar="F", help="config of weights that do not hold theirs (converted)")
    parser.add_argument("--device", default="cpu", metavar="D", help="a torch device, e.g. cuda (cpu)")


def add_embedding(parser: argparse.ArgumentParser) -> None:
    """How images are embedded."""
    parser.add_argument("--batch-size", type=at_least(1), default=64, metavar="N", help="images per pass (64)")
    parser.add_argument("--workers", type=at_least(0), default=2, metavar="N", help="threads that read images (2)")
    text = "half precision: faster on some machines, other numbers; default: as eval.amp of the config"
    parser.add_argument("--amp", action="store_true", default=None, help=text)
    flip = argparse.BooleanOptionalAction
    text = "average with the mirrored image: twice the time; by default as the config says (eval.flip)"
    parser.add_argument("--flip", action=flip, default=None, help=text)
    text = "stop at an image that cannot be read, or skip it and list it (raise)"
    parser.add_argument("--on-error", choices=("raise", "skip"), default="raise", help=text)
    text = "camera of all images, from 0, for models with a camera embedding; by default the mean of its rows"
    parser.add_argument("--camid", type=at_least(0), metavar="N", help=text)


def check_outputs(*files) -> None:
    """Raise OutputError for a file that could not be written after hours of embedding; those that are None are not."""
    for file in (user_path(file).absolute() for file in files if file is not None):
        folder = next(parent for parent in file.parents if parent.exists())
        if file.is_dir():
            raise OutputError(f"{file} is a folder; name a file to write")
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise OutputError(f"{file} cannot be written: {folder} is no folder that may be written to")


def read_columns(images: list[str], table: str | None) -> tuple[list[str], dict[str, list]]:
    """Names of the `images` that `listed` gave, and their metadata from boxes and from the CSV `table`.

    Nothing of the pictures is read, so that mistakes in a table are found before hours of embedding.
    """
    from occplug.serving.metadata import metadata_of_boxes, read_metadata
    from occplug.serving.pictures import names_of

    names = names_of(images)
    return names, metadata_of_boxes(images, names) | (read_metadata(table, names) if table else {})


def kept_rows(columns: dict[str, list], names: list[str], embedding) -> dict[str, list]:
    """`columns` of the images `names` without those that were skipped."""
    kept = [place for place, name in enumerate(names) if name not in embedding.skipped]
    return {column: [values[place] for place in kept] for column, values in columns.items()}


def embed_with(model, images: list[str], args: argparse.Namespace, columns: dict | None = None):
    """Embeddings of all `images` (files, folders, boxes).

    Args:
        columns: metadata of the images; cameras among them are given to a model that was trained with such.

    Raises:
        DataError: none of the images could be read.
    """
    options = {name: getattr(args, name) for name in ("batch_size", "workers", "amp", "flip", "on_error")}
    camids = args.camid if args.camid is not None else _cameras(model, columns or {})
    embedding = model.embed(images, camids=camids, **options)
    if embedding.skipped and not len(embedding):
        reason = next(iter(embedding.skipped.values()))
        raise DataError(f"none of the {len(embedding.skipped)} images could be read; the first: {reason}")
    return embedding


def _flip(model, given: bool | None, gallery) -> bool | None:
    """`given`, or as the embeddings of `gallery` were made."""
    origin = gallery.embedding.origin
    known = None if origin is None else origin.preprocessing.get("flip")
    if given is not None or known is None:
        return given
    if known != model.preprocessing()["flip"]:
        how = "averaged with mirror images" if known else "not averaged with mirror images"
        _log.warning("as in the gallery, embeddings are %s (eval.flip of the model is %s)", how, not known)
    return known


def _cameras(model, columns: dict[str, list]) -> list[int] | None:
    """Cameras from metadata if they are numbers that the camera embedding of `model` knows; None where not."""
    from occplug.datasets.boxes import CAMERA

    name = next((name for name in CAMERA if name in columns), None)
    if not model.num_cameras or name is None:
        return None
    last = model.num_cameras - 1
    if all(type(value) is int and 0 <= value <= last for value in columns[name]):
        _log.warning("the column %s is taken as the cameras of training, counted from 0 (0 to %d)", name, last)
        return columns[name]
    _log.warning("the column %s does not hold the cameras of training, 0 to %d, on all lines", name, last)
    return None


def print_skipped(embedding) -> None:
    """A line for each image that `--on-error skip` left out; most reasons begin with its name."""
    for path, reason in embedding.skipped.items():
        print(f"skipped {reason if reason.startswith(path) else f'{path}: {reason}'}")


def model_behind(args: argparse.Namespace, gallery, adds: bool = False):
    """The model of `--weights`, or the one that `gallery` was embedded with; `args.flip` becomes the gallery's unless
    it was given.

    Args:
        adds: whether its embeddings are added to the gallery, or searched in it.

    Raises:
        DataError: the gallery does not say, its weights are not there any more, or are others, or embeddings made with
            `args` would not fit.
    """
    import occplug

    origin = gallery.embedding.origin
    address = args.weights or (origin.weights if origin is not None else "")
    if not address:
        raise DataError("the gallery does not say which weights it was embedded with; name them with --weights")
    try:
        model = occplug.load(address, args.config_file, device=args.device)
    except CheckpointError as error:
        if args.weights:
            raise
        raise DataError(f"the gallery was embedded with {address}: {error}; name the weights with --weights") from error
    args.flip = _flip(model, args.flip, gallery)
    trial = embed_with(model, [], args)  # of no image: what would not fit is found before any is embedded
    if adds:
        gallery.embedding.check_same_model(trial, "the gallery's embeddings", "those to be added", flip=True)
    else:
        trial.check_same_model(gallery.embedding, "the queries", "the gallery")
    return model
