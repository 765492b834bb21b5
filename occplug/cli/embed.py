"""`occplug embed`: embeddings of a user's images, in one file that `search`, `gallery` and Python read."""

from __future__ import annotations

import argparse

from occplug.cli.own_images import (
    INPUTS,
    add_embedding,
    add_model,
    check_outputs,
    embed_with,
    kept_rows,
    parse,
    print_skipped,
    read_columns,
)
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
        raise ConfigError(
            f"-o is {args.output}; files of embeddings end in .safetensors, so write -o {args.output.stem}.safetensors"
        )
    check_outputs(args.output)

    import occplug
    from occplug.serving.newrows import tell_copies
    from occplug.serving.pictures import listed

    images = listed(args.inputs)
    names, columns = read_columns(images, args.metadata)
    model = occplug.load(args.weights, args.config_file, device=args.device)
    embedding = embed_with(model, images, args, columns=columns)
    if columns:
        occplug.Gallery.build(embedding, metadata=kept_rows(columns, names, embedding)).save(args.output)
    else:
        tell_copies(embedding.paths)
        embedding.save(args.output)
    print_skipped(embedding)
    left_out = f", {len(embedding.skipped)} skipped" if embedding.skipped else ""
    flip = "averaged with their mirror images" if embedding.origin.preprocessing["flip"] else "as they are (no flip)"
    print(f"{args.output}: {len(embedding)} images{left_out}, {flip}; model {model.fingerprint}")
