"""`occplug train`: every stage of a config, then the final test."""

from __future__ import annotations

import os
from pathlib import Path

import occplug
from occplug.cli.arguments import config_parser, parse_options
from occplug.errors import ConfigError

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and train."""
    parser = config_parser("train", "Train every stage of a method, or a stock torchreid model, then test it.")
    parser.add_argument("--resume", action="store_true", help="go on from data.save_dir/checkpoints/last.pth")
    parser.add_argument(
        "--after", metavar="PATH", help="train the stages after the one that ended in PATH, e.g. stage1.pth"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="build at full size, two steps a stage, generated images"
    )
    args, options = parse_options(parser, argv)
    if os.environ.get("RANK", "0") == "0":  # of several processes the first speaks
        print(f"occplug {occplug.__version__} train {args.config_file}: loading torch", flush=True)

    from occplug.config import load_config
    from occplug.reports.page import leave_page
    from occplug.runs.train import dry_run, train

    cfg = load_config(args.config_file, options)
    if args.dry_run and (args.after or args.resume):
        raise ConfigError("--dry-run trains for a moment from random weights; leave out --after and --resume")
    if args.dry_run:
        dry_run(cfg, args.config_file)
    else:
        train(cfg, resume=args.resume or cfg.run.resume, after=args.after, config_file=args.config_file)
        leave_page(Path(cfg.data.save_dir), cfg)
