"""`occplug export`: a trained model as one file that runs without occplug."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from occplug.cli.arguments import at_least
from occplug.cli.own_images import add_model, parse
from occplug.errors import ConfigError
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, export, compare the file with the model."""
    parser = argparse.ArgumentParser(
        "occplug export", description="Write a model as one file, and say how far the file agrees with the model."
    )
    add_model(parser, required=True)
    parser.add_argument("--format", choices=("onnx", "torchscript"), help="by default as the file's ending says")
    parser.add_argument("-o", "--output", required=True, type=user_path, metavar="FILE", help=".onnx or .torchscript")
    parser.add_argument("--half", action="store_true", help="float16 inside, for GPUs; input and outputs stay float32")
    text = "camera, from 0, that a model with a camera embedding sees; by default the mean of the embedding"
    parser.add_argument("--camera", type=at_least(0), metavar="N", help=text)
    text = "what the file expects: normalised as the model's images (model), by ImageNet's constants, or in [0, 1]"
    parser.add_argument("--input", choices=("model", "imagenet", "unit"), default="model", help=text)
    parser.add_argument("--vector-only", action="store_true", help="one output, as trackers want it")
    text = "also test the file and the model on this data set; with --root alone on the first target of the config"
    parser.add_argument("-t", "--target", metavar="TGT", help=text)
    parser.add_argument("--root", metavar="DIR", help="folder of data sets; measures Rank-1 and mAP through the file")
    parser.add_argument("--report", type=user_path, metavar="JSON", help="also write what is printed")
    args = parse(parser, argv)
    if args.device != "cpu":
        raise ConfigError("files are made and compared on the CPU; leave --device out")

    import occplug
    from occplug.serving.exporting import compare, export
    from occplug.utils.files import write_atomically

    model = occplug.load(args.weights, args.config_file)
    made = export(model, args.output, args.format, args.half, args.camera, args.input, args.vector_only)
    figures = compare(model, made, _data(model, args) if args.root or args.target else None)
    for line in _lines(args.output, made.about, figures):
        print(line)
    if args.report:
        text = json.dumps(figures, indent=2) + "\n"
        write_atomically(args.report, lambda temporary: temporary.write_text(text))


def _data(model, args):
    from occplug.data.manager import DataManager

    cfg = model.cfg.clone()
    cfg.defrost()
    cfg.data.root = args.root or cfg.data.root
    if args.target:
        cfg.data.targets = [args.target]
    return DataManager(cfg, trains=False)


def _lines(file: Path, about: dict, figures: dict) -> list[str]:
    size = f"{about['height']}x{about['width']}"
    camera = "" if about["camera"] is None else f"; camera embedding folded to {about['camera']}"
    outputs = ", ".join(about["outputs"])
    lines = [
        f"{file}: {file.stat().st_size / 1e6:.1f} MB; images [B, 3, {size}] -> {outputs}{camera}",
        f"mean {about['mean']}, std {about['std']}, distance {about['distance']['name']}",
        f"largest difference from the model {figures['max_difference']:.2e}, least cosine {figures['cosine']:.6f}",
        "milliseconds an image on this processor: model {model:.2f}, file {file:.2f}".format(**figures["milliseconds"]),
    ]
    if "target" in figures:
        both = [f"{who} mAP {100 * figures[who]['mAP']:.2f}, Rank-1 {100 * figures[who]['rank1']:.2f}" for who in _BOTH]
        lines.append(f"{figures['target']}: {'; '.join(both)}")
    return lines


_BOTH = ("model", "file")
