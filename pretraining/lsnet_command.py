"""`tools/pretrain_lsnet.py`: train one of the small towers without texts, measure it, write its model card."""

from __future__ import annotations

import argparse
import platform
import shlex
import tempfile
from datetime import date
from pathlib import Path

import torch

from occplug.errors import ConfigError
from occplug.utils.files import user_path
from pretraining import lsnet
from pretraining.command import revision
from pretraining.pool import CHUNK, IMAGES_PER_PERSONA, Pool, render_chunks
from pretraining.run import COUNTED_CHUNKS, OCCLUDED
from pretraining.scoring import take_sample
from pretraining.texts import PHRASES, VALUES

__all__ = ["main"]

ABOUT = {
    "lsnet_mini": """# lsnet_mini: the LSNet beside the embedded tiny CLIP

An LSNet (arXiv 2503.23135) of {parameters:.2f} M parameters, widths 32, 64, 96, 128: `backbone.wgff.weights embedded`
reads it in DPL-ReID's configs of SynthOcc. Trained""",
    "vit_mini": """# vit_mini: a small ViT without texts

A vision transformer of {parameters:.2f} M parameters, 4 blocks of width 104, patches of 8: `backbone.name vit_mini`
stands for PersonViT on SynthOcc. Trained""",
    "solider_swin_mini": """# solider_swin_mini: a small Swin with SOLIDER's controller

A Swin of {parameters:.2f} M parameters, widths 16, 32, 64, 128, two blocks a stage: `backbone.name solider_swin_mini`
stands for SOLIDER on SynthOcc. Its semantic controller has random weights that nobody trains.

Trained""",
}
CARD = """ from {origin} on rendered people of SynthOcc by their attributes, one
linear head each on the tower's feature; the heads were dropped. **It knows rendered people, not photographs.**
Licence: CC0-1.0; nobody depicted in the training images is real.

* command: `{command}`
* data: SynthOcc world 500: {people:,} people x 2 images, {cameras} cameras at severity 1, {occluded:.0f} % occluded
* samples seen: {samples:,} in {steps:,} steps; {minutes:g} min CPU, rendering not counted
* date: {date}
* versions: python {python}, torch {torch}, source {source}

Macro accuracy of the heads, per cent; *held out*: people of the training world, every second image occluded.

| attribute | chance | held out |
| --- | --- | --- |
{rows}
"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser("pretrain_lsnet.py", description="Train one of the small towers without texts.")
    p.add_argument("--out", required=True, type=user_path, metavar="FILE", help="a .safetensors; its card lies beside")
    p.add_argument("--tower", default=lsnet.NAME, choices=list(lsnet.NAMES))
    p.add_argument("--start", type=user_path, metavar="FILE", help="weights of the tower to go on from, by this tool")
    p.add_argument("--minutes", default=8.0, type=float, help="CPU time of the training")
    p.add_argument("--batch", default=128, type=int)
    p.add_argument("--personas", default=24_000, type=int, help="people of world 500, two images each")
    p.add_argument("--cameras", default=200, type=int)
    p.add_argument("--cache", type=user_path, metavar="DIR", help="images, shared with tools/pretrain_clip.py")
    return p


def main(argv: list[str]) -> None:
    """Parse `argv`, render what is not there, train, measure, write weights and card."""
    args = parser().parse_args(argv)
    if args.out.suffix != ".safetensors":
        raise ConfigError(f"--out {args.out}: the file's name must end in .safetensors")
    for name in ("minutes", "batch", "personas", "cameras"):
        if getattr(args, name) <= 0:
            raise ConfigError(f"--{name} must be positive, got {getattr(args, name)}")
    from pretraining.run import pretraining_scene

    cache = args.cache or Path(tempfile.gettempdir()) / f"occplug_pretrain_{args.personas}_{args.cameras}"
    cache.mkdir(parents=True, exist_ok=True)
    chunks, scene = -(-args.personas * IMAGES_PER_PERSONA // CHUNK), pretraining_scene(args)
    render_chunks(cache, list(range(chunks)), scene)
    torch.set_num_threads(1)
    pool = Pool(cache, chunks, scene)
    pool.refresh()
    counted, seed = range(min(COUNTED_CHUNKS, chunks)), int(args.start is not None)  # other batches than the first time
    net, counts = lsnet.train(pool, counted, args.batch, args.minutes, seed, args.tower, args.start)
    lsnet.save(net, args.out, {"world": "500", **{name: str(value) for name, value in counts.items()}})
    held_out = take_sample(scene._replace(occluded=0.5), range(args.personas, args.personas + 600))
    write_card(args, net, counts, lsnet.measure(net, held_out))


def write_card(args: argparse.Namespace, net: lsnet.AttributeNet, counts: dict[str, int], scores: dict) -> None:
    """The model card beside the weights, and on the screen."""
    options = {
        "tower": args.tower,
        **({"start": args.start} if args.start else {}),
        "out": args.out,
        "minutes": f"{args.minutes:g}",
        "batch": args.batch,
        "personas": args.personas,
        "cameras": args.cameras,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    rows = [f"| {n} | {100 / len(VALUES[n]):.1f} | {100 * scores[n]:.1f} |" for n in PHRASES]
    text = (ABOUT[args.tower] + CARD).format(
        parameters=sum(p.numel() for p in net.tower.parameters()) / 1e6,
        command=shlex.join(["python", "tools/pretrain_lsnet.py", *words]),
        origin=f"`{args.start}`" if args.start else "nothing",
        people=args.personas, cameras=args.cameras, occluded=100 * OCCLUDED, minutes=args.minutes,
        date=date.today().isoformat(),
        python=platform.python_version(), torch=torch.__version__, source=revision(), rows="\n".join(rows), **counts,
    )  # fmt: skip
    args.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
