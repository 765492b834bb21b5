"""`occplug search`: the images of a gallery nearest to a user's images."""

from __future__ import annotations

import argparse
import json
import sys

from occplug.cli.own_images import (
    INPUTS,
    add_embedding,
    add_model,
    check_outputs,
    embed_with,
    model_behind,
    parse,
    print_skipped,
)

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, search, print."""
    args = parse(_parser(), argv)
    check_outputs(args.sheet)

    from occplug.serving.gallery import Gallery
    from occplug.serving.sheet import draw_ranked

    gallery = Gallery.load(args.gallery)
    gallery.check_search(args.top, args.where)
    model = model_behind(args, gallery)
    queries = embed_with(model, args.inputs, args)
    hits = gallery.search(queries, args.top, args.where)
    answers = [
        [
            {"path": "", **row, "id": int(i), "distance": round(float(d), 6)}
            for row, i, d in zip(described, ids, distances)
        ]
        for described, ids, distances in zip((gallery.describe(ids[ids >= 0]) for ids in hits.ids), *hits)
    ]
    if args.sheet:
        rows = [
            [(path, "query"), *((hit["path"], f"{hit['distance']:.3f}") for hit in answer)]
            for path, answer in zip(queries.paths, answers)
        ]
        draw_ranked(rows, args.sheet)
    if not any(answers):
        print(_nothing_found(gallery, args), file=sys.stderr)
    if args.json:
        print(json.dumps(answers, indent=2))
        return
    for path, answer in zip(queries.paths, answers):
        print(f"{path}")
        for rank, hit in enumerate(answer, start=1):
            more = " ".join(f"{k}={v}" for k, v in hit.items() if k not in ("path", "distance", "id") and v is not None)
            print(f"{rank:5d}  {hit['distance']:.4f}  {hit['path'] or hit['id']}  {more}".rstrip())
    print_skipped(queries)
    if args.sheet:
        print(f"{args.sheet}: queries and their hits")


def _nothing_found(gallery, args: argparse.Namespace) -> str:
    from occplug.serving.where import values_asked

    if not len(gallery):
        return f"nothing found: {args.gallery} is empty"
    if args.where is None:
        return "nothing found"
    held = values_asked(args.where, gallery.columns)
    return f"nothing found: no image fulfils the condition {args.where}; in {args.gallery}, {held}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "occplug search", description="Rank the images of a gallery by the model's distance to each of yours."
    )
    parser.add_argument("inputs", nargs="+", metavar="IMAGE", help=INPUTS)
    parser.add_argument("--gallery", required=True, metavar="G", help="a file of occplug embed, or a gallery's folder")
    parser.add_argument("--top", type=int, default=10, metavar="K", help="how many (10)")
    text = "only images for which this holds, e.g. 'camera != 3 and time >= 100'"
    parser.add_argument("--where", metavar="CONDITION", help=text)
    parser.add_argument("--json", action="store_true", help="print a list for each query, nearest first")
    parser.add_argument("--sheet", metavar="PNG", help="also draw the queries and their hits")
    add_model(parser, required=False)
    add_embedding(parser)
    return parser
