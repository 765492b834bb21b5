"""`occplug convert`: an official checkpoint as one of ours, with a report of every key."""

from __future__ import annotations

import argparse
from pathlib import Path

from occplug.backbones.keys import KeyReport, key_report
from occplug.cli.arguments import parse_options
from occplug.cli.session import start_logging
from occplug.engine import save_checkpoint
from occplug.errors import ConfigError
from occplug.importers import SOURCES, load_official
from occplug.importers.torchreid_stock import StockModel
from occplug.importers.vit_family import SaliencyModel

__all__ = ["convert", "main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, convert, print the report."""
    parser = argparse.ArgumentParser(
        "occplug convert",
        description="Read an official checkpoint and write it under our names, for tools/test.py --weights OUT; a "
        "mask model of SPT is a stage of DPM, for method.earlier OUT, and an LSNet is for backbone.wgff.weights OUT.",
        allow_abbrev=False,
    )
    known = ", ".join([*SOURCES, "torchreid:MODEL"])
    parser.add_argument("--source", required=True, metavar="NAME", help=f"where IN is from: {known}")
    parser.add_argument("input", metavar="IN", type=Path, help="the official file")
    parser.add_argument("output", metavar="OUT", type=Path, help="ours, .pth")
    parser.add_argument("--height", type=int, default=256, metavar="PIXELS", help="of the images (256)")
    parser.add_argument("--width", type=int, default=128, metavar="PIXELS", help="of the images (128)")
    args, options = parse_options(parser, argv)
    if options:
        raise ConfigError(f"occplug convert takes no config keys, found: {' '.join(options)}")
    if args.output.suffix != ".pth":
        raise ConfigError(f"OUT is {args.output}, but checkpoints of ours end in .pth")
    if args.output.resolve() == args.input.resolve():
        raise ConfigError(f"OUT is IN, {args.input}, which would be lost; name another file")
    start_logging()
    report = convert(args.source, args.input, args.output, (args.height, args.width))
    print("\n".join(describe(report)))
    print(f"\n{args.output}: {len(report.read)} tensors read, {len(report.left)} left, none missing")


def convert(source: str, given: Path, made: Path, image_size: tuple[int, int] = (256, 128)) -> KeyReport:
    """Write the official checkpoint `given` under our names to `made`; returns what became of every key.

    Raises:
        ConfigError: an unknown source; CheckpointError: as `load_official`. Nothing is written then.
    """
    with key_report() as report:
        module = load_official(source, given, image_size=image_size)
    net = module.net if isinstance(module, StockModel) else module
    state = net.state_dict()
    cameras = state.get("backbone.camera_embedding")
    content = {
        "state_dict": state,
        "source": source,
        "config": "",
        "num_classes": getattr(module, "num_classes", 1),
        "num_cameras": 1 if cameras is None else len(cameras),
    }
    if isinstance(module, SaliencyModel):  # not a model to test, but a stage that others build on
        content |= module.as_stage()
    save_checkpoint(content, made)
    return report


def describe(report: KeyReport) -> list[str]:
    """One line a key of the official file: its shape, and its name with us or that it was left."""
    lines = []
    for name, shape in report.read.items():
        ours = report.renamed.get(name, name)
        lines.append(f"read     {name} {list(shape)}" + ("" if ours == name else f" -> {ours}"))
    return [*lines, *(f"left     {name}" for name in report.left)]
