"""`occplug test`: evaluation of a checkpoint, or of several whose distances are mixed."""

from __future__ import annotations

from pathlib import Path

from occplug.cli.arguments import config_parser, parse_options
from occplug.cli.mixing import test_mixed
from occplug.cli.session import describe_protocol, prepare, write_metrics
from occplug.cli.testing import Candidate, candidates, engine_of
from occplug.config import save_config
from occplug.datamanager import DataManager
from occplug.download import file_sha256
from occplug.errors import ConfigError

__all__ = ["main", "test"]


def main(argv: list[str]) -> None:
    """Parse `argv` and evaluate."""
    text = "Evaluate weights on the config's targets. Several --config-file and --weights: their distances are mixed."
    parser = config_parser("test", text, several=True)
    parser.add_argument(
        "--weights",
        required=True,
        action="append",
        metavar="PATH",
        help="a checkpoint of occplug train, zoo export or convert, or zoo://NAME, which needs no --config-file",
    )
    parser.add_argument("--rerank", action="store_true", help="k-reciprocal re-ranking (eval.rerank_*)")
    parser.add_argument("--visrank", action="store_true", help="draw the ranked galleries of the queries")
    args, options = parse_options(parser, argv)
    found = candidates(args.config_file, args.weights, options)
    rerank, visrank = args.rerank or found[0].cfg.test.rerank, args.visrank or found[0].cfg.test.visrank
    if len(found) == 1:
        test(found[0], rerank=rerank, visrank=visrank)
    elif rerank or visrank:
        raise ConfigError("--rerank and --visrank are for one model; leave them out to mix several")
    else:
        test_mixed(found)


def test(candidate: Candidate, rerank: bool = False, visrank: bool = False, file: Path | None = None) -> dict:
    """Evaluate `candidate`; returns what `metrics.json` holds, with the weights' SHA-256 as `tested`.

    Args:
        file: where to write that; `metrics.json` in data.save_dir/test by default.

    Raises:
        CheckpointError: the weights do not fit the config; lists the keys.
    """
    cfg = candidate.cfg
    folder, device = prepare(cfg, saves=False)
    data = DataManager(cfg, trains=False)
    engine = engine_of(candidate, data, folder, device)
    options = {**engine.test_options(), "rerank": rerank, "visrank": visrank, "visrank_topk": cfg.test.visrank_topk}
    engine.run(save_dir=str(folder), test_only=True, **options)
    data.close()
    file = file or folder / "test" / "metrics.json"
    save_config(cfg, file.with_name("config.yaml"))  # the folder may be that of the run that made the weights
    protocol, weights = describe_protocol(cfg, rerank), candidate.weights
    return write_metrics(cfg, engine, candidate.config_file, protocol, file, tested=file_sha256(Path(weights.where)))
