"""`occplug calibrate`: what the distances of a trained model mean, kept with its weights."""

from __future__ import annotations

import argparse
import json

from occplug.cli.own_images import add_embedding, add_model, parse
from occplug.errors import ConfigError
from occplug.utils.files import user_path

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv`, calibrate, write."""
    args = parse(_parser(), argv)
    if args.weights.startswith(("zoo://", "hf://")) and args.output is None:
        raise ConfigError(f"{args.weights} is not a file of yours; name one to write with -o FILE")

    import occplug
    from occplug.experiments.markdown import check_marks, replace_marked
    from occplug.serving.calibrating import as_markdown, calibrate_model, draw_reliability
    from occplug.utils.files import write_atomically
    from occplug.zoo.annotating import check_keeps, keep_calibration

    mark = " ".join(["calibrate", args.weights, *args.sources])
    if args.page:
        check_marks(args.page, mark)

    model = occplug.load(args.weights, args.config_file, args.set, args.device)
    check_keeps(model.weights.where)
    options = {name: getattr(args, name) for name in ("batch_size", "workers", "amp", "flip", "on_error")}
    if args.camid is not None:
        options["camids"] = args.camid
    covered = [share / 100 for share in args.covered]
    made = calibrate_model(model, args.root, args.sources, args.kind, args.identities, covered, **options)
    file = keep_calibration(model.weights.where, made.as_dict(), args.output)
    print("\n".join(_lines(made.facts, args.kind)))
    if args.report:
        text = json.dumps(made.facts, indent=2) + "\n"
        write_atomically(args.report, lambda temporary: temporary.write_text(text))
    if args.diagram:
        write_atomically(args.diagram, lambda temporary: draw_reliability(made, temporary))
    if args.page:
        command = "occplug calibrate " + " ".join(argv)
        replace_marked(args.page, mark, as_markdown(made.facts, command))
    print(f"the calibration is in {file}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "occplug calibrate",
        description="Learn what a distance means from pairs of images of identities that were held out of training "
        "(ensemble.held_out), never of the test split, and keep it with the weights, for model.same(a, b).",
    )
    add_model(parser, required=True)
    parser.add_argument("--root", required=True, metavar="DIR", help="folder that holds the data sets")
    text = (
        "data sets whose training images are taken, or all images where nothing tells the sides; by default those the "
    )
    text += "model was trained on"
    parser.add_argument("-s", "--sources", nargs="+", default=[], metavar="SRC", help=text)
    parser.add_argument("--kind", choices=("logistic", "isotonic"), default="logistic", help="of the curve (logistic)")
    text = "whose images: unseen, or trained, which makes the model look better than it is (unseen)"
    parser.add_argument("--identities", choices=("unseen", "trained"), default="unseen", help=text)
    text = "per cent, e.g. 50 60 70: also say how pairs are answered one of whose images is covered so far"
    parser.add_argument("--covered", nargs="+", type=float, default=[], metavar="P", help=text)
    text = "write the weights with their calibration there; by default over --weights"
    parser.add_argument("-o", "--output", type=user_path, metavar="FILE", help=text)
    parser.add_argument("--report", type=user_path, metavar="JSON", help="also write the figures")
    parser.add_argument("--diagram", type=user_path, metavar="PNG", help="also draw the reliability diagram")
    text = "also put the figures between the marks `calibrate W SRC...` in FILE, a page of Markdown"
    parser.add_argument("--page", type=user_path, metavar="FILE", help=text)
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="KEY=VALUE", help="config keys, e.g. synthocc.size=tiny"
    )
    add_embedding(parser)
    return parser


def _lines(facts: dict, kind: str) -> list[str]:
    from occplug.serving.calibrating import rates_of

    pairs = f"{facts['same_pairs']} pairs of the same person and {facts['different_pairs']} of different ones"
    lines = [f"{kind}; {facts['identities']} {facts['whose']}; {pairs}"]
    if "ece" in facts:
        lines.append(f"expected calibration error on identities it was not fitted on: {facts['ece']:.3f}")
    lines.append(f"abstains on {100 * facts['abstains']:.1f} % of pairs (half of them of the same person)")
    if facts["wrong_if_it_did_not"] is not None:
        lines[-1] += f", of which {100 * facts['wrong_if_it_did_not']:.0f} % would have been answered wrongly"
    lines += [
        f"with one image covered by {each['share']:.0%}: wrong answers {100 * each['wrong']:.1f} %, "
        f"abstains on {100 * each['abstains']:.1f} %"
        for each in facts["covered"]
    ]
    lines.append("false accept rate   distance up to   true accept rate")
    return lines + [
        f"{rate:>17}   {distance:14.4f}   {100 * accepted:14.1f} %" for rate, distance, accepted in rates_of(facts)
    ]
