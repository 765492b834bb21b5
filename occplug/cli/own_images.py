"""Flags that the commands for a user's images share."""

from __future__ import annotations

import argparse

from occplug.cli.arguments import WEIGHTS
from occplug.errors import CheckpointError, DataError

__all__ = ["INPUTS", "add_embedding", "add_model", "embed_with", "model_behind", "parse", "print_skipped"]


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
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per pass of the model (64)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="threads that read images (2)")
    text = "half precision: faster on some machines, other numbers; default: as eval.amp of the config"
    parser.add_argument("--amp", action="store_true", default=None, help=text)
    flip = argparse.BooleanOptionalAction
    text = "average with the mirrored image: twice the time; by default as the config says (eval.flip)"
    parser.add_argument("--flip", action=flip, default=None, help=text)
    text = "stop at an image that cannot be read, or skip it and list it (raise)"
    parser.add_argument("--on-error", choices=("raise", "skip"), default="raise", help=text)
    text = "camera of all images, from 0, for models with a camera embedding"
    parser.add_argument("--camid", type=int, metavar="N", help=text)


def embed_with(model, inputs: list[str], args: argparse.Namespace):
    """Embeddings of all images that `inputs` (files and folders) name."""
    options = {name: getattr(args, name) for name in ("batch_size", "workers", "amp", "flip", "on_error")}
    return model.embed(inputs, camids=args.camid, **options)


def print_skipped(embedding) -> None:
    """A line for each image that `--on-error skip` left out; most reasons begin with its name."""
    for path, reason in embedding.skipped.items():
        print(f"skipped {reason if reason.startswith(path) else f'{path}: {reason}'}")


def model_behind(args: argparse.Namespace, gallery):
    """The model of `--weights`, or the one that `gallery` was embedded with.

    Raises:
        DataError: the gallery does not say, or its weights are not there any more.
    """
    import occplug

    origin = gallery.embedding.origin
    address = args.weights or (origin.weights if origin is not None else "")
    if not address:
        raise DataError("the gallery does not say which weights it was embedded with; name them with --weights")
    try:
        return occplug.load(address, args.config_file, device=args.device)
    except CheckpointError as error:
        if args.weights:
            raise
        raise DataError(f"the gallery was embedded with {address}: {error}; name the weights with --weights") from error
