"""`occplug test`: evaluation of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from occplug.cli.arguments import config_parser, parse_config
from occplug.cli.session import build_engine, describe_protocol, prepare, write_metrics
from occplug.datamanager import DataManager
from occplug.engine import load_checkpoint, load_weights

__all__ = ["main", "test"]


def main(argv: list[str]) -> None:
    """Parse `argv` and evaluate."""
    parser = config_parser("test", "Evaluate a checkpoint on the config's targets.")
    parser.add_argument("--weights", required=True, metavar="PATH", help="a checkpoint written by occplug train")
    parser.add_argument("--rerank", action="store_true", help="k-reciprocal re-ranking (eval.rerank_*)")
    parser.add_argument("--visrank", action="store_true", help="draw the ranked galleries of the queries")
    args, cfg = parse_config(parser, argv)
    test(
        cfg,
        args.config_file,
        args.weights,
        rerank=args.rerank or cfg.test.rerank,
        visrank=args.visrank or cfg.test.visrank,
    )


def test(cfg, config_file: str, weights: str, rerank: bool = False, visrank: bool = False) -> dict:
    """Evaluate the checkpoint `weights` with `cfg`; returns what `metrics.json` (in data.save_dir/test) holds.

    Raises:
        CheckpointError: the file is missing, unsafe, or does not fit the config; lists the keys.
    """
    state = load_checkpoint(weights)
    folder, device = prepare(cfg)
    data = DataManager(cfg)
    classes, cameras = len(state["pids"]), len(state["cameras"])
    engine = build_engine(cfg, data, folder, device, classes, cameras, pretrained=False)
    load_weights(engine.model, state["state_dict"], weights)
    t = cfg.test
    engine.run(
        save_dir=str(folder),
        test_only=True,
        dist_metric=t.dist_metric,
        normalize_feature=t.normalize_feature,
        visrank=visrank,
        visrank_topk=t.visrank_topk,
        use_metric_cuhk03=cfg.cuhk03.use_metric_cuhk03,
        ranks=t.ranks,
        rerank=rerank,
    )
    data.close()
    return write_metrics(
        cfg, engine, config_file, describe_protocol(cfg, rerank), Path(folder) / "test" / "metrics.json"
    )
