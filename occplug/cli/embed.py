"""`occplug embed`: embeddings of a user's images, in one file that `search`, `gallery` and Python read."""

from __future__ import annotations

import argparse

from occplug.cli.own_images import INPUTS, add_embedding, add_model, embed_with, parse, print_skipped
from occplug.errors import ConfigError
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, embed, write the file."""
    parser = argparse.ArgumentParser(
        "occplug embed", description="Embed images of one person each; the file is a gallery for occplug search."
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=INPUTS)
    add_model(parser, required=True)
    parser.add_argument("-o", "--output", required=True, type=user_path, metavar="FILE", help="a .safetensors to write")
    add_embedding(parser)
    text = "CSV with a column path and any others, kept with the images for --where"
    parser.add_argument("--metadata", metavar="CSV", help=text)
    args = parse(parser, argv)
    if args.output.suffix != ".safetensors":
        raise ConfigError(f"-o is {args.output}; files of embeddings end in .safetensors")

    import occplug
    from occplug.serving.metadata import metadata_of_boxes, read_metadata

    model = occplug.load(args.weights, args.config_file, device=args.device)
    embedding = embed_with(model, args.inputs, args)
    metadata = metadata_of_boxes(args.inputs, embedding.paths)
    if args.metadata:
        metadata |= read_metadata(args.metadata, embedding.paths)
    if metadata:
        occplug.Gallery.build(embedding, metadata=metadata).save(args.output)
    else:
        embedding.save(args.output)
    print_skipped(embedding)
    left_out = f", {len(embedding.skipped)} skipped" if embedding.skipped else ""
    flip = "averaged with their mirror images" if embedding.origin.preprocessing["flip"] else "as they are (no flip)"
    print(f"{args.output}: {len(embedding)} images{left_out}, {flip}; model {model.fingerprint}")
