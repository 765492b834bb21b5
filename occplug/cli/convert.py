"""`occplug convert`: an official checkpoint as one of ours, with a report of every key."""

from __future__ import annotations

import argparse

from occplug import _moved
from occplug.cli.arguments import at_least, parse_options
from occplug.errors import ConfigError
from occplug.utils.files import user_path

__all__ = ["main"]

__getattr__ = _moved.older_names(__name__)


def main(argv: list[str]) -> None:
    """Parse `argv`, convert, print the report."""
    parser = argparse.ArgumentParser(
        "occplug convert",
        description="Read an official checkpoint and write it under our names, for occplug test --weights OUT; a "
        "mask model of SPT is a stage of DPM, for method.earlier OUT, and an LSNet is for backbone.wgff.weights OUT.",
        allow_abbrev=False,
    )
    text = "where IN is from: torchreid:MODEL, or one of those that an unknown name lists, e.g. clip_reid"
    parser.add_argument("--source", required=True, metavar="NAME", help=text)
    parser.add_argument("input", metavar="IN", type=user_path, help="the official file")
    parser.add_argument("output", metavar="OUT", type=user_path, help="ours, .pth")
    parser.add_argument("--height", type=at_least(1), default=256, metavar="PIXELS", help="of the images (256)")
    parser.add_argument("--width", type=at_least(1), default=128, metavar="PIXELS", help="of the images (128)")
    args, options = parse_options(parser, argv)
    if options:
        raise ConfigError(f"occplug convert takes no config keys, but got: {' '.join(options)}")
    if args.output.suffix != ".pth":
        raise ConfigError(f"OUT is {args.output}, but checkpoints of ours end in .pth")
    if args.output.resolve() == args.input.resolve():
        raise ConfigError(f"OUT is IN, {args.input}, which would be lost; name another file")

    from occplug.importers.converting import convert
    from occplug.runs.session import start_logging

    start_logging()
    outcome = convert(args.source, args.input, args.output, (args.height, args.width))
    print("\n".join(outcome.lines()))
    filled = f"; {len(outcome.filled)} of ours are not in it, and without effect" if outcome.filled else ""
    print(f"\n{args.output}: {len(outcome.read)} tensors read, {len(outcome.left)} left, none missing{filled}")
