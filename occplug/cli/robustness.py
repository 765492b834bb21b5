"""`occplug robustness`: mAP and Rank-1 of any models as their queries are covered more and more."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from occplug.cli.arguments import at_least, check_titles, parse_options
from occplug.utils.files import user_path

__all__ = ["main"]

SIDES = ("bottom", "left", "right", "top")
SHARES = [0, 10, 20, 30, 40, 50, 60, 70]


def main(argv: list[str]) -> None:
    """Parse `argv`, measure, draw and print."""
    args, options = parse_options(_parser(), argv)

    from occplug.experiments.markdown import check_marks, replace_marked
    from occplug.experiments.robustness import measure
    from occplug.occluders import read_library
    from occplug.occluders.covering import Cover
    from occplug.reports.robustness import draw_robustness
    from occplug.reports.views import numbered
    from occplug.runs.candidates import candidates
    from occplug.runs.session import start_logging
    from occplug.utils.plotting import check_ending

    check_titles(args)
    figure = args.figure or args.output / "robustness.pdf"
    check_ending(figure)
    if args.readme:
        check_marks(args.readme, "robustness")  # before anything is measured
    start_logging()
    library = read_library(args.library)
    shares = [share / 100 for share in args.shares]
    covers = [Cover(library, share, max(shares), tuple(args.kinds), tuple(args.sides)) for share in shares]
    models = candidates(args.config_file, args.weights, options)
    titles = args.titles or numbered([candidate.cfg.model.name for candidate in models])
    result = measure(models, titles, covers, args.target, args.queries, args.seed)
    folder = result.write(args.output)
    draw_robustness(folder / "robustness.json", figure)
    if args.readme:
        text = result.document(figure, args.readme, "occplug robustness " + shlex.join(argv))
        replace_marked(args.readme, "robustness", text)
    print(f"\n{result.markdown()}\n\nfigure: {figure}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "occplug robustness",
        description="Cover the queries of a test set by 0 to 70 % of the picture, the same way every time and for "
        "every model, and draw mAP and Rank-1 against the share. Of a data set that has its queries without occluders "
        "too (SynthOcc), those are taken.",
        epilog="Any config key may follow as KEY VALUE pairs, over every model's config.",
        allow_abbrev=False,
    )
    text = "as of occplug test: folders of runs, checkpoints, zoo://NAME"
    parser.add_argument("--weights", required=True, action="append", metavar="PATH", help=text)
    text = "one for each --weights, or none where the weights bring theirs"
    parser.add_argument("--config-file", action="append", default=[], metavar="F", help=text)
    text = "one a model (the methods' names); models of one title are seeds of one row"
    parser.add_argument("--titles", nargs="+", metavar="T", help=text)
    parser.add_argument("--root", metavar="DIR", help="folder that holds the data sets (data.root)")
    parser.add_argument("--target", default="", metavar="NAME", help="data set; default: the first config's first")
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES, metavar="P", help="per cent, from 0 on")
    parser.add_argument(
        "--library", default="", metavar="DIR", help="occluders; default: the drawn ones of the package"
    )
    parser.add_argument("--kinds", nargs="+", default=[], metavar="K", help="categories of the library (all)")
    parser.add_argument("--sides", nargs="+", default=list(SIDES), metavar="S", help=f"{', '.join(SIDES)} (all)")
    text = "of what covers which picture (1); with several every query is covered once for each"
    parser.add_argument("--seed", nargs="+", type=at_least(0), default=[1], metavar="N", help=text)
    parser.add_argument("--queries", type=at_least(0), default=0, metavar="N", help="evenly spaced queries (0: all)")
    parser.add_argument(
        "--output", type=user_path, default=Path("log/robustness"), metavar="DIR", help="log/robustness"
    )
    text = ".pdf, .svg, .png or .jpg; default: robustness.pdf, in the folder of --output"
    parser.add_argument("--figure", type=user_path, metavar="FILE", help=text)
    text = "replace the figure and tables between the marks 'robustness' in FILE"
    parser.add_argument("--readme", type=user_path, metavar="FILE", help=text)
    return parser
