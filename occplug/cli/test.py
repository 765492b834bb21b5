"""`occplug test`: evaluation of a checkpoint, or of several as an ensemble."""

from __future__ import annotations

from pathlib import Path

from occplug.cli.arguments import WEIGHTS, config_parser, parse_options
from occplug.errors import ConfigError

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and evaluate."""
    text = "Evaluate weights on the config's targets. Several --config-file and --weights: an ensemble of them."
    parser = config_parser("test", text, several=True)
    parser.add_argument(
        "--weights",
        required=True,
        action="append",
        metavar="PATH",
        help=f"{WEIGHTS}; --config-file is needed only where the weights do not hold theirs (converted files)",
    )
    parser.add_argument("--rerank", action="store_true", help="k-reciprocal re-ranking (eval.rerank_*)")
    parser.add_argument("--visrank", action="store_true", help="draw the ranked galleries of the queries")
    args, options = parse_options(parser, argv)

    from occplug.reports.page import leave_page
    from occplug.runs.candidates import candidates
    from occplug.runs.ensemble import evaluate_ensemble
    from occplug.runs.evaluate import evaluate_candidate

    models = candidates(args.config_file, args.weights, options)
    rerank, visrank = args.rerank or models[0].cfg.test.rerank, args.visrank or models[0].cfg.test.visrank
    if len(models) == 1:
        evaluate_candidate(models[0], rerank=rerank, visrank=visrank)
        leave_page(Path(models[0].cfg.data.save_dir) / "test", models[0].cfg)
    elif rerank or visrank:
        raise ConfigError("--rerank and --visrank are for one model; leave them out to test several models as one")
    else:
        evaluate_ensemble(models)
