"""`occplug show-heads`: whether attention heads look alike, and patches become alike, as figure 3 of DPM++."""

from __future__ import annotations

import argparse
import json
from typing import Any

from occplug.cli.arguments import check_titles, parse_options
from occplug.utils.files import user_path, write_atomically

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, draw the figure and print its numbers."""
    args, options = parse_options(_parser(), argv)
    check_titles(args)

    from occplug.reports.heads import draw_heads, head_figures
    from occplug.reports.views import numbered
    from occplug.runs.candidates import candidates
    from occplug.runs.session import start_logging

    start_logging()
    models = candidates([], args.weights, options)
    titles = args.titles or numbered([candidate.cfg.model.name for candidate in models])
    found = [head_figures(candidate, title, args.images) for candidate, title in zip(models, titles)]
    numbers: dict[str, dict[str, Any]] = {
        each.title: {
            "mean_correlation": each.mean_correlation,
            "head_correlation": each.heads.tolist(),
            "patch_similarity": each.patches,
        }
        for each in found
    }
    for title, each in numbers.items():
        print(
            f"{title}: heads {each['mean_correlation']:.3f}; patches {[round(x, 3) for x in each['patch_similarity']]}"
        )
    if args.output:
        text = json.dumps(numbers, indent=2, ensure_ascii=False) + "\n"
        write_atomically(args.output, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    print(f"figure: {draw_heads(found, args.figure)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "occplug show-heads",
        description="Draw how alike the heads of the last block are to the class token, and the patches of each block.",
        epilog="Any config key may follow as KEY VALUE pairs, over every model's config.",
        allow_abbrev=False,
    )
    parser.add_argument("weights", nargs="+", metavar="RUN", help="folders of runs, checkpoints, or zoo://NAME")
    parser.add_argument("--root", metavar="DIR", help="folder that holds the data sets (data.root)")
    parser.add_argument("--titles", nargs="+", metavar="T", help="one a model; default: the methods' names")
    parser.add_argument("--images", type=int, default=64, metavar="N", help="queries, spread evenly (64)")
    parser.add_argument("--figure", required=True, type=user_path, metavar="FILE", help=".svg, .pdf or .png")
    parser.add_argument("--output", type=user_path, metavar="JSON", help="also write the numbers to a file")
    return parser
