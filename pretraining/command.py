"""`occplug pretrain-clip`: train the embedded tiny CLIP from nothing, measure it, write its model card."""

from __future__ import annotations

import argparse
import json
import math
import platform
import shlex
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch

from occplug.errors import ConfigError
from occplug.utils.files import user_path

__all__ = ["main"]

EXTRA = """Image-caption contrast over the whole batch. For a faster start two attribute losses run beside it: linear
heads on the image embedding (dropped afterwards), and short captions of one attribute each, what stands in front
among them. Captions name it too, in its kind's word or as an object, and mostly leave out what it hides. The first
60 % of the run see one patch of each 2x2 block, the next 30 % two, the last 10 % all. AdamW 1.2e-3 (.9, .98), weight
decay .05 except on tables, linear decay; flips, gain, shifts."""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser("occplug pretrain-clip", description="Train the embedded tiny CLIP from nothing.")
    p.add_argument("--out", required=True, type=user_path, metavar="FILE", help="a .safetensors; its card lies beside")
    p.add_argument("--samples", default=1_000_000, type=int, help="image-caption pairs to see")
    p.add_argument("--minutes", default=float("inf"), type=float, help="train no longer; the schedule fits in")
    p.add_argument("--batch", default=128, type=int, help="image-caption pairs a step, over all processes")
    p.add_argument("--personas", default=40_000, type=int, help="people of world 500, two images each")
    p.add_argument("--cameras", default=200, type=int)
    p.add_argument("--threads", default=2, type=int, help="single-thread training processes")
    p.add_argument("--workers", default=1, type=int, help="rendering processes, at low priority")
    p.add_argument("--start", default=0.25, type=float, help="share of the images to render before training starts")
    p.add_argument("--cache", type=user_path, metavar="DIR", help="images and checkpoint; default: a temporary folder")
    p.add_argument("--image-norm", default=10.0, type=float, help="mean norm of the written image features")
    p.add_argument("--init", type=user_path, metavar="FILE", help="start from the weights of an earlier file")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint in the cache")
    p.add_argument("--note", metavar="TEXT", help="a sentence on this run for the card")
    return p


def main(argv: list[str]) -> None:
    """Parse `argv`, train, evaluate, write the weights and the card."""
    args = parser().parse_args(argv)
    if args.out.suffix != ".safetensors":
        raise ConfigError(f"--out {args.out}: the file's name must end in .safetensors")
    for name in ("samples", "batch", "personas", "cameras", "threads", "workers", "minutes", "image_norm"):
        if getattr(args, name) <= 0:
            raise ConfigError(f"--{name} must be positive, got {getattr(args, name)}")
    cache = args.cache or Path(tempfile.gettempdir()) / f"occplug_pretrain_{args.personas}_{args.cameras}"
    cache.mkdir(parents=True, exist_ok=True)
    from pretraining.run import pretrain

    trainer = pretrain(args, cache)
    if trainer.progress < 1:
        print(f"stopped at {trainer.samples:,} samples; --resume goes on (state in {cache})")
        return
    measure(args, trainer, cache)


def measure(args: argparse.Namespace, trainer, cache: Path) -> None:
    """Score the trained model and write the card beside the weights."""
    from pretraining.card import write_card
    from pretraining.render import Scene
    from pretraining.run import pretraining_scene
    from pretraining.scoring import score, take_sample

    world = pretraining_scene(args)
    held_out = range(args.personas, args.personas + 600)
    test = range(150, 300)  # the test people of SynthOcc small
    samples = {
        "held out": take_sample(world._replace(occluded=0.0), held_out),
        "held out, occluded": take_sample(world._replace(occluded=1.0), held_out),
        "benchmark": take_sample(Scene(1, 6, 0.6, 0.0), test, views=2),
        "benchmark, occluded": take_sample(Scene(1, 6, 0.6, 1.0), test, views=2),
        "no person": take_sample(world._replace(occluded=0.0, person=False), held_out),
    }
    scores = {name: score(trainer.model, trainer.tokenize, sample) for name, sample in samples.items()}
    card = args.out.with_suffix(".md")
    write_card(card, args.out, facts(args, trainer), EXTRA, scores)
    figures = {name: [s.attributes, s.occluders, s.retrieval] for name, s in scores.items()}
    (cache / "scores.json").write_text(json.dumps(figures, indent=1))
    print(card.read_text(encoding="utf-8"))


def facts(args: argparse.Namespace, trainer) -> dict[str, str]:
    """What made the file, one line each."""
    from pretraining.run import OCCLUDED

    options = {"out": args.out, "personas": args.personas, "cameras": args.cameras, "batch": args.batch}
    options |= {} if args.init is None else {"init": args.init}
    options |= {"samples": args.samples} if math.isinf(args.minutes) else {"minutes": f"{args.minutes:g}"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = shlex.join(["python", "tools/pretrain_clip.py", *words])
    data = f"{args.personas:,} people x 2 images, {args.cameras} cameras at severity 1, {100 * OCCLUDED:.0f} % occluded"
    wall, cpu = trainer.seconds / 60, trainer.cpu_seconds / 60
    return {
        "command": f"`{command}`",
        "data": f"SynthOcc world 500: {data}",
        "samples seen": f"{trainer.samples:,} in {trainer.steps:,} steps",
        "time": f"{wall:.0f} min wall, {cpu:.0f} min CPU in {args.threads} processes, rendering not counted",
        "date": date.today().isoformat(),
        "versions": f"python {platform.python_version()}, torch {torch.__version__}, source {revision()}",
    } | ({"note": args.note} if args.note else {})


def revision() -> str:
    """The source's git commit, or `unknown`."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


if __name__ == "__main__":
    main(sys.argv[1:])
