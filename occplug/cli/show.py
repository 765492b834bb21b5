"""`occplug show`: ranked galleries of queries, as a figure."""

from __future__ import annotations

import argparse

from occplug.cli.arguments import parse_options
from occplug.errors import ConfigError
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and draw."""
    parser = argparse.ArgumentParser(
        "occplug show",
        description="Draw queries beside their nearest gallery images, one row a model.",
        epilog="Any config key may follow as KEY VALUE pairs, over every model's config.",
        allow_abbrev=False,
    )
    parser.add_argument("weights", nargs="+", metavar="RUN", help="folders of runs, checkpoints, or zoo://NAME")
    parser.add_argument("--root", metavar="DIR", help="folder that holds the data sets (data.root)")
    parser.add_argument("--target", default="", metavar="NAME", help="data set to search; default: the config's first")
    parser.add_argument("--titles", nargs="+", metavar="T", help="one a model; default: the methods' names")
    parser.add_argument(
        "--queries",
        nargs="+",
        default=["random:5"],
        metavar="Q",
        help="worst:N, best:N, gain:N (first model over second), random:N, or file names; default random:5",
    )
    parser.add_argument("--columns", type=int, default=5, metavar="K", help="nearest images of a query (5)")
    parser.add_argument("--width", type=float, default=7.0, metavar="INCHES", help="of the figure (7)")
    parser.add_argument("--figure", required=True, type=user_path, metavar="FILE", help=".pdf, .svg or .png, 300 dpi")
    args, options = parse_options(parser, argv)

    from occplug.reports.figures import draw_rankings
    from occplug.reports.rankings import choose_queries, rankings
    from occplug.runs.candidates import candidates
    from occplug.runs.session import start_logging

    if args.columns < 1 or args.width <= 0:
        raise ConfigError("--columns is at least 1, and --width above 0")
    start_logging()
    models = candidates([], args.weights, options)
    titles = args.titles or [candidate.cfg.model.name for candidate in models]
    if len(titles) != len(models):
        raise ConfigError(f"--titles has {len(titles)} titles for {len(models)} models; give one each")
    ranked = rankings(models, titles, args.target, args.columns)
    print(
        f"figure: {draw_rankings(ranked, choose_queries(args.queries, ranked), args.figure, args.columns, args.width)}"
    )
