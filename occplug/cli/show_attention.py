"""`occplug show-attention`: where trained models look, as a sheet of pictures."""

from __future__ import annotations

import argparse

from occplug.cli.arguments import WEIGHTS, check_titles, parse_options
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and write the sheet."""
    args, options = parse_options(_parser(), argv)

    from occplug.reports.attention import attention_sheet
    from occplug.reports.views import numbered
    from occplug.runs.candidates import candidates
    from occplug.runs.session import start_logging

    check_titles(args)
    start_logging()
    models = candidates(args.config_file, args.weights, options)
    titles = args.titles or numbered([candidate.cfg.model.name for candidate in models])
    sheet = attention_sheet(
        models, titles, args.output, args.map, args.target, args.queries, args.images, args.top, args.width
    )
    print(sheet)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "occplug show-attention",
        description="Draw where one or several models look, over the same queries of a test set, and over their "
        "nearest gallery images: attention rollout, Grad-CAM, or the maps of the body's parts.",
        epilog="Any config key may follow as KEY VALUE pairs, over every model's config.",
        allow_abbrev=False,
    )
    parser.add_argument("--weights", required=True, action="append", metavar="W", help=WEIGHTS + "; once a model")
    text = "one for each --weights, or none where the weights bring theirs"
    parser.add_argument("--config-file", action="append", default=[], metavar="F", help=text)
    parser.add_argument("--titles", nargs="+", metavar="T", help="one a model; default: the methods' names")
    parser.add_argument("--root", metavar="DIR", help="folder that holds the data sets (data.root)")
    parser.add_argument("-s", "--sources", nargs="+", metavar="SRC", help="data.sources")
    parser.add_argument("-t", "--targets", nargs="+", metavar="TGT", help="data.targets")
    parser.add_argument("--target", default="", metavar="NAME", help="data set; default: the first config's first")
    text = "rollout (class token), gradcam (similarity to the nearest image, and back) or parts; default: the parts of "
    text += "a single model that has them, else rollout, or Grad-CAM where a tower has no class token's attention"
    parser.add_argument("--map", default="", choices=["rollout", "gradcam", "parts"], help=text)
    parser.add_argument("--images", type=int, default=8, metavar="N", help="how many queries, spread evenly (8)")
    text = "in place of --images: worst:N, best:N, gain:N (first model over second), random:N, or file names"
    parser.add_argument("--queries", nargs="+", default=[], metavar="Q", help=text)
    text = "nearest gallery images beside each query, a row a model (0: maps of the queries alone)"
    parser.add_argument("--top", type=int, default=0, metavar="K", help=text)
    parser.add_argument("--width", type=float, default=7.0, metavar="INCHES", help="of the figure (7)")
    text = ".pdf, .svg, .png or .jpg, 300 dpi"
    parser.add_argument("--output", required=True, metavar="FILE", type=user_path, help=text)
    return parser
