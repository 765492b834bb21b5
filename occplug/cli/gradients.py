"""`occplug gradients`: what each term of a stage's loss does to the model."""

from __future__ import annotations

import json

from occplug.cli.arguments import config_parser, parse_config
from occplug.errors import ConfigError
from occplug.utils.files import user_path, write_atomically

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, look at some training batches and print one line a term."""
    parser = config_parser(
        "gradients",
        "Norm of each weighted loss's gradient, scale of its logits, and the share of images it touches: for the "
        "question why a part does nothing.",
        weights=True,
        untrained="the initial weights",
    )
    parser.add_argument("--stage", default="", metavar="NAME", help="default: the last")
    parser.add_argument("--batches", default=2, type=int, metavar="N", help="training batches to look at (default 2)")
    parser.add_argument("--generated", action="store_true", help="random pictures in place of the data sets")
    text = "multiply all text features by F first: what the terms would be at another temperature of the CLIP (1)"
    parser.add_argument("--text-scale", type=float, default=1.0, metavar="F", help=text)
    parser.add_argument("--output", metavar="JSON", type=user_path, help="also write the figures to a file")
    args, cfg = parse_config(parser, argv)

    from occplug.data.manager import DataManager, GeneratedDataManager
    from occplug.method import build_method
    from occplug.registry import model_class
    from occplug.runs.candidates import load_trained
    from occplug.runs.gradients import gradient_report, scale_texts
    from occplug.runs.session import start_logging

    if model_class(cfg.model.name).is_stock:
        raise ConfigError(f"{cfg.model.name} is torchreid's, with one loss; this is for the methods")
    start_logging()
    data = (GeneratedDataManager if args.generated else DataManager)(cfg)
    if args.weights:
        method = load_trained(cfg, args.weights)
    else:
        method = build_method(cfg, data.num_train_pids, data.num_train_cams, pretrained=not args.generated)
    if args.text_scale != 1:
        scale_texts(method, args.text_scale)
    report = gradient_report(method, data, args.batches, args.stage)
    data.close()
    print(f"{report['stage']}: {report['batches']} batches of {report['images']}")
    print(_table(report["terms"]))
    if args.output:
        about = {"config_file": args.config_file, "weights": args.weights, "text_scale": args.text_scale}
        text = json.dumps({**about, **report}, indent=2) + "\n"
        write_atomically(args.output, lambda temporary: temporary.write_text(text))


def _table(terms: dict[str, dict]) -> str:
    from tabulate import tabulate

    levels = list(dict.fromkeys(level for term in terms.values() for level in term["levels"]))
    headers = ["loss", "weight", "value", "grad. tower", "grad. rest", "share, %", *(f"on {level}" for level in levels)]
    headers += ["images, %", "logits: std", "p(label), %"]
    rows = []
    for name, term in terms.items():
        at = [term["levels"].get(level) for level in levels]
        touched, label = (None if term[key] is None else 100 * term[key] for key in ("touched", "label"))
        numbers = [term["weight"], term["value"], term["tower"], term["rest"], 100 * term["share"], *at]
        rows.append([name, *numbers, touched, term["spread"], label])
    return tabulate(rows, headers=headers, floatfmt=".3g", missingval="")
