"""`occplug train`: every stage of a config, then the final test."""

from __future__ import annotations

from occplug.cli.arguments import config_parser, parse_config
from occplug.errors import ConfigError
from occplug.runs.train import dry_run, train

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
    args, cfg = parse_config(parser, argv)
    if args.dry_run and (args.after or args.resume):
        raise ConfigError("--dry-run trains for a moment from random weights; leave out --after and --resume")
    if args.dry_run:
        dry_run(cfg, args.config_file)
    else:
        train(cfg, resume=args.resume or cfg.run.resume, after=args.after, config_file=args.config_file)
