"""`occplug show-attention`: where a trained method's parts look, as a sheet of pictures."""

from __future__ import annotations

from occplug.cli.arguments import config_parser, parse_config
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and write the sheet."""
    parser = config_parser(
        "show-attention", "Draw the attention maps of the parts over the first target's queries.", weights=True
    )
    parser.add_argument("--output", required=True, metavar="PNG", type=user_path, help="the picture to write")
    parser.add_argument("--images", type=int, default=8, metavar="N", help="how many queries, spread evenly (8)")
    args, cfg = parse_config(parser, argv)

    from occplug.reports.attention import attention_sheet

    print(attention_sheet(cfg, args.weights, args.output, args.images))
