"""`occplug show`: a page about runs with every query's ranking, or some rankings as a figure."""

from __future__ import annotations

import argparse
from pathlib import Path

from occplug.cli.arguments import check_titles, parse_options
from occplug.errors import ConfigError
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and draw."""
    args, options = parse_options(_parser(), argv)

    from occplug.reports.page import write_page
    from occplug.reports.sprite import PICTURES
    from occplug.reports.views import opened
    from occplug.runs.session import start_logging

    if args.columns < 1 or args.width <= 0 or (args.pictures or 0) < 0:
        raise ConfigError("--columns is at least 1, --width above 0, and --pictures at least 0")
    check_titles(args)
    start_logging()
    if args.figure:
        _figure(args, options)
        return
    folder = user_path(args.weights[0])
    is_one = len(args.weights) == 1 and (folder / "metrics.json").is_file()
    output = args.output or (folder / "report.html" if is_one else Path("report.html"))
    limit = PICTURES if args.pictures is None else args.pictures
    with opened(args.weights, args.titles or [], options) as views:
        print(f"page: {write_page(views, output, args.root or '', limit=limit)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "occplug show",
        description="Write one self-contained page about runs, side by side: curves, CMC, a map of embeddings, and "
        "every query with its ranked gallery. With --figure: draw queries beside their nearest gallery images instead, "
        "one row a model.",
        epilog="Any config key may follow as KEY VALUE pairs, over every model's config.",
        allow_abbrev=False,
    )
    parser.add_argument("weights", nargs="+", metavar="RUN", help="folders of runs, checkpoints, or zoo://NAME")
    parser.add_argument("--root", metavar="DIR", help="folder that holds the data sets (data.root)")
    parser.add_argument("--titles", nargs="+", metavar="T", help="one a model; default: the methods' names")
    parser.add_argument(
        "--output", type=user_path, metavar="HTML", help="the page; default: report.html, in the folder of a single run"
    )
    parser.add_argument("--pictures", type=int, metavar="N", help="thumbnails on the page, at most (4000)")
    parser.add_argument("--figure", type=user_path, metavar="FILE", help=".pdf, .svg or .png, 300 dpi")
    parser.add_argument(
        "--target", default="", metavar="NAME", help="of the figure: data set to search; default: the config's first"
    )
    parser.add_argument(
        "--queries",
        nargs="+",
        default=["random:5"],
        metavar="Q",
        help="of the figure: worst:N, best:N, gain:N (first model over second), random:N, or file names (random:5)",
    )
    parser.add_argument("--columns", type=int, default=5, metavar="K", help="of the figure: nearest images (5)")
    parser.add_argument("--width", type=float, default=7.0, metavar="INCHES", help="of the figure (7)")
    return parser


def _figure(args, options: list[str]) -> None:
    from occplug.reports.figures import draw_rankings
    from occplug.reports.rankings import choose_queries, rankings
    from occplug.runs.candidates import candidates

    models = candidates([], args.weights, options)
    titles = args.titles or [candidate.cfg.model.name for candidate in models]
    ranked = rankings(models, titles, args.target, args.columns)
    print(
        f"figure: {draw_rankings(ranked, choose_queries(args.queries, ranked), args.figure, args.columns, args.width)}"
    )
