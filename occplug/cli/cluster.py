"""`occplug cluster`: who is the same over many of a user's images."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from occplug.cli.own_images import INPUTS, add_embedding, add_model, check_outputs, embed_with, parse, print_skipped
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, group, write."""
    parser = argparse.ArgumentParser("occplug cluster", description="Group images of one person each by person.")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=INPUTS)
    add_model(parser, required=True)
    parser.add_argument(
        "-o", "--output", required=True, type=user_path, metavar="CSV", help="path and group of each image"
    )
    parser.add_argument("--sheet", metavar="PNG", help="also draw the groups, a row for each")
    text = "agglomerative or hdbscan; by default the first where a threshold is known"
    parser.add_argument("--way", choices=("agglomerative", "hdbscan"), help=text)
    text = "distance up to which groups are one; by default where a calibrated model is undecided"
    parser.add_argument("--threshold", type=float, metavar="D", help=text)
    add_embedding(parser)
    args = parse(parser, argv)
    check_outputs(args.output, args.sheet)

    import occplug
    from occplug.serving.cluster import check_number, choose_way, cluster
    from occplug.serving.pictures import listed, names_of
    from occplug.serving.sheet import draw_ranked
    from occplug.utils.files import write_atomically

    model = occplug.load(args.weights, args.config_file, device=args.device)
    choose_way(model, args.way, args.threshold)  # what it refuses is not embedded
    images = listed(args.inputs)
    check_number(len(names_of(images)))
    embedding = embed_with(model, images, args)
    groups = cluster(model, embedding, args.way, args.threshold).tolist()
    rows = sorted(zip(groups, embedding.paths), key=lambda row: (row[0] < 0, row))
    write_atomically(args.output, lambda temporary: _write(temporary, rows))
    if args.sheet:
        drawn = [
            [(path, str(group)) for g, path in rows if g == group] for group in sorted({g for g in groups if g >= 0})
        ]
        draw_ranked(drawn, args.sheet)
    alone = groups.count(-1)
    print(f"{args.output}: {len(groups)} images in {len(set(groups) - {-1})} groups, {alone} of them in none")
    print_skipped(embedding)


def _write(path: Path, rows: list) -> None:
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "group"])
        writer.writerows([image, group] for group, image in rows)
