"""`occplug synthocc`: render the embedded benchmark."""

from __future__ import annotations

import argparse

from occplug.cli.arguments import at_least
from occplug.utils.files import user_path

__all__ = ["main"]

SIZES = ("tiny", "small", "tune", "medium")


def main(argv: list[str]) -> None:
    """Parse `argv` and render; a folder that is complete already is left alone."""
    parser = argparse.ArgumentParser("occplug synthocc", description="Render the embedded benchmark SynthOcc.")
    parser.add_argument(
        "--root", required=True, type=user_path, metavar="DIR", help="data root; files go to DIR/synthocc/SIZE"
    )
    parser.add_argument(
        "--size",
        default="small",
        choices=SIZES,
        help="tiny (CI), small (default), tune (to choose recipes), medium (GPU)",
    )
    parser.add_argument("--seed", default=1, type=at_least(0), help="world seed; 1 is the benchmark")
    parser.add_argument("--workers", default=None, type=at_least(1), help="processes; default: one per core")
    args = parser.parse_args(argv)

    from occplug.datasets.synthocc import build
    from occplug.runs.session import start_logging

    start_logging()
    folder = build(args.root, args.size, seed=args.seed, workers=args.workers)
    print(f"SynthOcc {args.size} (seed {args.seed}) is in {folder}")
