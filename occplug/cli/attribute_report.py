"""`occplug attribute-report`: what the learnt tokens of each identity say, and whether they carry its attributes."""

from __future__ import annotations

from occplug.cli.arguments import config_parser, parse_config

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and write the page."""
    parser = config_parser(
        "attribute-report", "Say in words what a trained model's prompt tokens learnt.", weights=True
    )
    parser.add_argument("--output", required=True, metavar="PAGE", help="a .html or .md file to write")
    args, cfg = parse_config(parser, argv)

    from occplug.reports.attributes import attribute_report
    from occplug.runs.session import start_logging

    start_logging()
    print(f"report: {attribute_report(cfg, args.weights, args.output)}")
