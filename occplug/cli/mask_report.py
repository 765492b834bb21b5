"""`occplug mask-report`: prototype masks and saliency against what SynthOcc knows to be visible."""

from __future__ import annotations

import json

from occplug import _moved
from occplug.cli.arguments import config_parser, parse_config
from occplug.utils.files import user_path

__all__ = ["main"]

__getattr__ = _moved.older_names(__name__)


def main(argv: list[str]) -> None:
    """Parse `argv`, write the figures of every SynthOcc target and print them."""
    parser = config_parser(
        "mask-report",
        "On SynthOcc, whose true masks are known: how prototype masks follow what is visible, and how much of the "
        "person and of the occluder is salient, for the occluded queries and the same queries without occluders; and "
        "how much of a candidate's body patch transfer leaves in a mixed training image, and hides of the target's.",
        weights=True,
    )
    parser.add_argument("--output", required=True, metavar="JSON", type=user_path, help="the file to write")
    args, cfg = parse_config(parser, argv)

    from occplug.reports.masks import mask_report

    print(json.dumps(mask_report(cfg, args.weights, args.output, str(args.config_file)), indent=2))
