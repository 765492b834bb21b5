"""`occplug gallery build|add|remove|info`: galleries on disk."""

from __future__ import annotations

import argparse
import json

from occplug.cli.own_images import (
    INPUTS,
    add_embedding,
    add_model,
    embed_with,
    kept_rows,
    model_behind,
    parse,
    print_skipped,
    read_columns,
)
from occplug.errors import ConfigError

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and do it."""
    parser = argparse.ArgumentParser("occplug gallery", description="Build, extend, shrink and describe a gallery.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for add in (_build_parser, _add_parser, _remove_parser, _info_parser):
        add(actions)
    args = parse(parser, argv)
    {"build": _build, "add": _add, "remove": _remove, "info": _info}[args.action](args)


def _build_parser(actions) -> None:
    parser = actions.add_parser("build", help="a gallery with a search engine, from files of occplug embed")
    text = "files of occplug embed, or galleries, all of one model; with their metadata"
    parser.add_argument("inputs", nargs="+", metavar="FILE", help=text)
    parser.add_argument("-o", "--output", required=True, metavar="G", help="a folder to make (or a .safetensors file)")
    parser.add_argument("--engine", default="exact", metavar="NAME", help="exact, faiss or milvus (exact)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="options of the engine")
    text = "CSV with a column path, and e.g. pid and camera; with pid, Rank-1 through the engine is measured"
    parser.add_argument("--metadata", metavar="CSV", help=text)
    parser.add_argument(
        "--queries", metavar="FILE", help="a file of occplug embed: queries to measure with, occluded ones"
    )
    parser.add_argument("--query-metadata", metavar="CSV", help="their pid and camera")
    parser.add_argument("--force", action="store_true", help="replace a gallery that is there")
    parser.add_argument("--half", action="store_true", help="keep embeddings in half precision: half the size")


def _add_parser(actions) -> None:
    parser = actions.add_parser("add", help="embed images and add them")
    parser.add_argument("gallery", metavar="G")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=INPUTS)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="metadata of all of them, e.g. camera=3"
    )
    parser.add_argument("--metadata", metavar="CSV", help="metadata of each: a column path and any others")
    add_model(parser, required=False)
    add_embedding(parser)


def _remove_parser(actions) -> None:
    parser = actions.add_parser("remove", help="remove images, by id or by a condition")
    parser.add_argument("gallery", metavar="G")
    parser.add_argument("--ids", nargs="+", type=int, metavar="ID")
    parser.add_argument("--where", metavar="CONDITION", help="e.g. 'time < 100'")


def _info_parser(actions) -> None:
    parser = actions.add_parser("info", help="what is in it")
    parser.add_argument("gallery", metavar="G")
    parser.add_argument("--json", action="store_true")


def _pairs(words: list[str]) -> dict:
    from occplug.serving.metadata import check_name, typed

    wrong = [word for word in words if "=" not in word]
    if wrong:
        raise ConfigError(f"--set takes KEY=VALUE, got {wrong[0]!r}")
    pairs = dict(word.split("=", 1) for word in words)
    for key in pairs:
        check_name(key, "--set: ")
    return {key: typed(key, [value])[0] for key, value in pairs.items()}


def _rows(files: list[str], table: str | None):
    """What `files` hold, embeddings or galleries of one model, and their metadata, with those of `table` over them."""
    from occplug.embedding import Embedding
    from occplug.serving.metadata import read_metadata
    from occplug.serving.store import Rows, open_store

    read = [open_store(file).read()[0] for file in files]
    Embedding.cat([rows.embedding[:0] for rows in read])  # of different models: an error
    rows = Rows.cat(read)
    more = read_metadata(table, rows.columns.get("path", [])) if table else {}
    return rows, rows.columns | more


def _build(args) -> None:
    from occplug.serving.gallery import Gallery
    from occplug.serving.store import open_store

    if open_store(args.output).is_taken() and not args.force:
        raise ConfigError(f"-o is {args.output}, where a gallery is already; name another, or replace it with --force")
    rows, metadata = _rows(args.inputs, args.metadata)
    options = {"metadata": metadata, "half": args.half, **_pairs(args.set)}
    if len(args.inputs) == 1:  # several may have the same ids
        options["ids"] = rows.ids.numpy()
    if args.queries:
        queries, options["query_metadata"] = _rows([args.queries], args.query_metadata)
        options["queries"] = queries.embedding
    made = Gallery.build(rows.embedding, engine=args.engine, **options)
    made.save(args.output)
    _print_info(made)


def _add(args) -> None:
    from occplug.serving.gallery import Gallery
    from occplug.serving.pictures import listed

    gallery = Gallery.load(args.gallery)
    pairs, images = _pairs(args.set), listed(args.inputs)
    names, columns = read_columns(images, args.metadata)
    columns = {name: [value] * len(names) for name, value in pairs.items()} | columns
    embedding = embed_with(model_behind(args, gallery, adds=True), images, args, columns)
    metadata = kept_rows(columns, names, embedding)
    gallery.add(embedding, metadata)
    print_skipped(embedding)
    flip = ", averaged with their mirror images" if embedding.origin.preprocessing["flip"] else ""
    print(f"{args.gallery}: {len(embedding)} images added{flip}, {len(gallery)} in all")


def _remove(args) -> None:
    from occplug.serving.gallery import Gallery

    gallery = Gallery.load(args.gallery)
    count = gallery.remove(args.ids, args.where)
    print(f"{args.gallery}: {count} images removed, {len(gallery)} left")


def _info(args) -> None:
    from occplug.serving.gallery import Gallery

    gallery = Gallery.load(args.gallery)
    if args.json:
        print(json.dumps(gallery.info(), indent=2))
    else:
        _print_info(gallery)


def _print_info(gallery) -> None:
    from occplug.serving.quality import CHANGES

    for key, value in gallery.info().items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        shown = ", ".join(shown) if isinstance(shown, list) else shown
        print(f"{key:14s} {shown if shown not in ('', None) else '-'}")
    changed = gallery.quality.get(CHANGES)
    if changed:
        print(f"quality was measured before {changed} images were added or removed; build it again to renew it")
