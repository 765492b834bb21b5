"""`occplug show-mixing`: what DPM and DPM++ make of a training batch, as a sheet of pictures."""

from __future__ import annotations

from occplug import _moved
from occplug.cli.arguments import config_parser, parse_config
from occplug.utils.files import user_path

__all__ = ["main"]

__getattr__ = _moved.older_names(__name__)


def main(argv: list[str]) -> None:
    """Parse `argv`, write the sheet, and print the statistics of the prototype masks."""
    parser = config_parser(
        "show-mixing",
        "Draw images of a training batch with their saliency, the candidate whose surroundings they are put into, the "
        "mix as pixels, and the prototype mask of the image: its d values in rows, on one scale for all images.",
        weights=True,
        untrained="an untrained method",
    )
    parser.add_argument("--output", required=True, metavar="PNG", type=user_path, help="the picture to write")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="how many images, mixed ones first (8)")
    args, cfg = parse_config(parser, argv)

    from occplug.reports.mixing import mixing_sheet

    print("\n".join(mixing_sheet(cfg, args.output, args.weights or "", args.images)))
