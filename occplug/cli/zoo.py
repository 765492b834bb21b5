"""`occplug zoo`: what is in the model zoo, its weights, its table, and whether its figures still come out."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from pathlib import Path

from tabulate import tabulate

from occplug.cli.arguments import parse_options
from occplug.config import load_config
from occplug.config.files import Setting
from occplug.errors import ConfigError, OccplugError
from occplug.experiments.markdown import replace_marked
from occplug.runs.candidates import Candidate, config_of, config_path, entry_settings, save_small_file
from occplug.runs.evaluate import evaluate_candidate
from occplug.runs.session import start_logging
from occplug.runs.train import train
from occplug.utils.files import user_path, write_atomically
from occplug.zoo import INDEX, Entry, Index, read_index
from occplug.zoo.adding import entry_of_config
from occplug.zoo.exporting import measured, read_runs, with_file
from occplug.zoo.fetching import cached_file, fetch
from occplug.zoo.index import Run
from occplug.zoo.table import markdown, overview
from occplug.zoo.verifying import Finding, compare, spread_over_seeds
from occplug.zoo.weights import read_test_weights

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Parse `argv` and do what it says."""
    parser = argparse.ArgumentParser("occplug zoo", description="The model zoo.", allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, (function, text, arguments) in ACTIONS.items():
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        for words, options in arguments:
            action.add_argument(*words, **options)
        action.add_argument("--index", type=user_path, default=INDEX, metavar="FILE", help="another index.yaml")
        action.set_defaults(function=function)
    args, options = parse_options(parser, argv)
    if options and args.action not in ("verify", "export"):
        raise ConfigError(f"occplug zoo {args.action} takes no config keys, found: {' '.join(options)}")
    start_logging()
    args.options = options
    args.command = "python tools/zoo.py " + " ".join(argv)
    args.function(args, read_index(args.index))


# ---------------------------------------------------------------------- looking


def _list(args, index: Index) -> None:
    """One line an entry."""
    rows = []
    for entry in index.entries.values():
        if args.text in entry.name:
            best = entry.published[0] if entry.published else None
            figures = (
                "" if best is None else " / ".join("-" if v is None else f"{v:.1f}" for v in (best.mAP, best.rank1))
            )
            rows.append([entry.name, figures, "measured" if entry.ours else "", _place(index, entry)])
    if not rows:
        raise ConfigError(f"no entry's name holds {args.text!r}; leave it out to see all {len(index.entries)}")
    print(tabulate(rows, ["zoo://", "published mAP / R1", "ours", "weights"], disable_numparse=True))


def _place(index: Index, entry: Entry) -> str:
    if entry.checkpoint is None:
        return "none"
    own = index.path_of(entry)
    if own is not None and own.is_file():
        return "in the package"
    if cached_file(entry).is_file():
        return "downloaded"
    fetchable = entry.checkpoint.url or entry.checkpoint.drive
    return "to be downloaded" if fetchable else "in a checkout"


def _show(args, index: Index) -> None:
    """Everything about one entry."""
    entry = index.find(args.name)
    print(Index(index.file, {}, {entry.name: entry}).text().partition("entries:\n")[2].strip())
    for kind, name in entry.licence.items():
        print(f"licence of {kind}: {index.licences[kind][name]}")
    print(f"weights: {_place(index, entry)}")


def _download(args, index: Index) -> None:
    """Fetch weights and print where they are."""
    for name in args.names:
        print(fetch(index, index.find(name)))


def _table(args, index: Index) -> None:
    """Write model_zoo.md, and the short table of the README."""
    write_atomically(args.output, lambda temporary: temporary.write_text(markdown(index), encoding="utf-8"))
    print(f"{args.output}: {len(index.entries)} entries")
    if args.readme:
        replace_marked(args.readme, "methods", overview(index))
        print(f"{args.readme}: {len(index.overview)} methods")


# ---------------------------------------------------------------------- adding


def _add(args, index: Index) -> None:
    """Entries for config files; what is measured and where weights are stays."""
    if args.name is not None and len(args.config_file) > 1:
        raise ConfigError(f"--name is of one entry, but {len(args.config_file)} config files are given; leave it out")
    for file in args.config_file:
        new = entry_of_config(file, args.name)
        # code that no entry had before is of this repository, like its licence
        index.licences["code"].setdefault(new.licence["code"], "this repository MIT")
        old = index.entries.get(new.name)
        if old is not None:
            if old.config != new.config:
                raise ConfigError(f"{new.name} is already the entry of {old.config}; choose another --name for {file}")
            new = dataclasses.replace(new, ours=old.ours, checkpoint=old.checkpoint, log=old.log)
        index.put(new)
        print(f"{new.name}: {'as its config says now' if old else 'added'}")
    index.write()


def _export(args, index: Index) -> None:
    """Figures of finished runs, and one's checkpoint; an older one of ours goes, since it has no part in them."""
    entry = index.find(args.name)
    older = index.path_of(entry)
    base = load_config(config_path(entry), entry_settings(entry, measured=False))
    runs = read_runs(args.runs, entry)
    ours = measured(runs, entry, base, args.trained_by or "python tools/train.py --config-file " + entry.config)
    entry = dataclasses.replace(entry, ours=ours, checkpoint=None if older is not None else entry.checkpoint)
    if not args.no_weights:
        entry = _with_weights(args, index, entry, runs)
    index.put(entry)
    index.write()
    if older is not None and older != index.path_of(entry):
        older.unlink(missing_ok=True)
    print(f"{entry.name}: {len(runs)} seeds; now run: python tools/zoo.py table")


def _with_weights(args, index: Index, entry: Entry, runs: list) -> Entry:
    if entry.checkpoint is not None:
        raise ConfigError(f"{entry.name} has official weights, which would be lost; give --no-weights, or add an entry")
    seeds = [run.cfg.train.seed for run in runs]
    if args.seed is not None and args.seed not in seeds:
        raise ConfigError(f"--seed is {args.seed}, but the runs have the seeds {seeds}")
    run = runs[0] if args.seed is None else runs[seeds.index(args.seed)]
    path = index.file.parent / "checkpoints" / f"{entry.name.replace('/', '-')}.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        save_small_file(made, run.cfg, read_test_weights(run.checkpoint), entry.name)
        if not args.unchecked:
            cfg = load_config(
                run.folder / "config.yaml", ["data.save_dir", str(Path(folder) / "replay"), *args.options]
            )
            metrics = evaluate_candidate(Candidate(cfg, entry.config, read_test_weights(made)))
            start_logging()
            assert entry.ours is not None  # an entry is made of runs
            recorded = next(r for r in entry.ours.runs if r.seed == run.cfg.train.seed)
            finding = compare(entry, recorded, metrics, cfg, cfg)
            print("\n".join(finding.lines()))
            if not finding.passed:
                raise ConfigError(f"{entry.name}: the small file does not give the run's figures; nothing is written")
        probe = dataclasses.replace(index, file=made.parent / "index.yaml")
        with_file(probe, entry, made, run.cfg.train.seed)  # refuses what is too large before anything is written
        write_atomically(path, lambda temporary: temporary.write_bytes(made.read_bytes()))
    return with_file(index, entry, path, run.cfg.train.seed)


# ---------------------------------------------------------------------- verifying


def _verify(args, index: Index) -> None:
    """Replay entries, all of them whatever becomes of one; an exit status of 2 if a figure has moved."""
    entries = [index.find(name) for name in args.names]
    entries = entries or [entry for entry in index.entries.values() if entry.ours and index.path_of(entry)]
    if not entries:
        raise ConfigError("no entry has weights in the package; name entries, or fill some with tools/zoo.py export")
    outcomes = [(entry.name, _outcome(args, index, entry)) for entry in entries]
    failed = [f"{name} ({outcome})" for name, outcome in outcomes if outcome]
    if failed:
        raise ConfigError(f"{len(failed)} of {len(entries)} entries do not give their figures: {'; '.join(failed)}")
    print(f"\n{len(entries)} entries give their figures")


def _outcome(args, index: Index, entry: Entry) -> str:
    """Replay `entry` and print what came of it; returns what is wrong, nothing if it gives its figures."""
    try:
        finding = _replay(args, index, entry)
        lines, wrong = finding.lines(), "" if finding.passed else finding.verdict()
    except (OccplugError, OSError, RuntimeError) as error:  # also a full disk or GPU: the others are still asked
        lines, wrong = [f"could not be verified: {error}"], str(error)
    finally:
        start_logging()
    print(f"\n{entry.name}\n  " + "\n  ".join(lines))
    return wrong


def _replay(args, index: Index, entry: Entry) -> Finding:
    run = _recorded(entry)
    is_ours = entry.checkpoint is not None and entry.checkpoint.seed is not None
    if not is_ours and not args.train:
        raise ConfigError(f"{entry.name} has no weights of our runs to evaluate; --train trains it again")
    folder = user_path(args.save_dir) / entry.name / ("train" if args.train else "test")
    own = {"train.seed": run.seed, "data.save_dir": str(folder)}
    taken = [key for key in args.options[::2] if key in own or key == "data.targets"]
    if taken:
        raise ConfigError(f"zoo verify sets {', '.join(taken)} itself; leave it out (--save-dir: where replays go)")
    replayed = [Setting(key, value, "zoo verify") for key, value in own.items()]
    cfg = load_config(config_path(entry), [*entry_settings(entry, measured=True), *replayed, *args.options])
    checkpoint = entry.checkpoint
    weights = read_test_weights(fetch(index, entry), checkpoint.format, cfg) if checkpoint and is_ours else None
    before = config_of(weights.config) if weights is not None and weights.config else None
    if args.train:
        metrics = _train_again(cfg, entry.config)
    else:
        assert weights is not None  # checked at the start
        metrics = evaluate_candidate(Candidate(cfg, entry.config, weights))
    spread = spread_over_seeds(index.entries.values(), entry.data) if args.train else None
    return compare(entry, run, metrics, cfg, before, spread)


def _recorded(entry: Entry) -> Run:
    """The run whose figures a replay of `entry` must give: the one its checkpoint is from, else the first."""
    if entry.ours is None:
        raise ConfigError(f"{entry.name} has no figures of ours to compare with; python tools/zoo.py export fills them")
    runs = {run.seed: run for run in entry.ours.runs}
    seed = entry.checkpoint.seed if entry.checkpoint is not None else None
    if seed is not None and seed not in runs:
        raise ConfigError(
            f"{entry.name}: its checkpoint is of seed {seed}, but ours has runs of {', '.join(map(str, runs))} alone; "
            "export figures and weights together"
        )
    return entry.ours.runs[0] if seed is None else runs[seed]


def _is_saved(cfg, file: Path) -> bool:
    """Whether `file` holds exactly `cfg`."""
    try:
        return load_config(file) == cfg
    except ConfigError:
        return False


def _train_again(cfg, config_file: str) -> dict:
    """Train `cfg` in its folder: an interrupted replay with the same config goes on, any other starts again."""
    folder = Path(cfg.data.save_dir)
    saved = folder / "config.yaml"
    if saved.exists() and ((folder / "metrics.json").exists() or not _is_saved(cfg, saved)):
        shutil.rmtree(folder, ignore_errors=True)
    return train(cfg, resume=(folder / "checkpoints" / "last.pth").exists(), config_file=config_file)


_NAME = (("name",), {"metavar": "NAME", "help": "method/variant/data, zoo:// allowed"})
_NAMES = (("names",), {"metavar": "NAME", "nargs": "+", "help": "method/variant/data, zoo:// allowed"})
_ROOT = (("--root",), {"metavar": "DIR", "help": "folder that holds the data sets (data.root)"})
ACTIONS: dict[str, tuple] = {
    "list": (
        _list,
        "print the entries",
        [(("text",), {"nargs": "?", "default": "", "metavar": "TEXT", "help": "only names that hold TEXT"})],
    ),
    "show": (_show, "print one entry", [_NAME]),
    "download": (_download, "fetch and check weights", [_NAMES]),
    "verify": (
        _verify,
        "replay the evaluation of entries and say what a difference is due to",
        [
            (("names",), {"metavar": "NAME", "nargs": "*", "help": "entries; none: all with weights in the package"}),
            _ROOT,
            (
                ("--train",),
                {"action": "store_true", "help": "train again (one seed) in place of evaluating the weights"},
            ),
            (("--save-dir",), {"default": "log/verify", "metavar": "DIR", "help": "log/verify"}),
        ],
    ),
    "table": (
        _table,
        "write model_zoo.md",
        [
            (
                ("--output",),
                {"type": user_path, "default": Path("model_zoo.md"), "metavar": "FILE"},
            ),
            (("--readme",), {"type": user_path, "metavar": "FILE", "help": "also put the short table into FILE"}),
        ],
    ),
    "add": (
        _add,
        "add entries for config files, or take over what their headers say now",
        [
            (("--config-file",), {"type": Path, "nargs": "+", "required": True, "metavar": "F"}),
            (("--name",), {"metavar": "NAME", "help": "of a single entry; by default made from the config"}),
        ],
    ),
    "export": (
        _export,
        "fill an entry from finished runs: figures of every seed, and a small checkpoint of one",
        [
            _NAME,
            (
                ("--runs",),
                {"type": Path, "nargs": "+", "required": True, "metavar": "DIR", "help": "one folder a seed"},
            ),
            (("--trained-by",), {"metavar": "COMMAND", "help": "the command that trained them"}),
            (("--seed",), {"type": int, "metavar": "K", "help": "whose weights to keep (the lowest)"}),
            (("--no-weights",), {"action": "store_true", "help": "figures alone; an older file of ours is removed"}),
            (("--unchecked",), {"action": "store_true", "help": "do not evaluate the small file before it is kept"}),
            _ROOT,
        ],
    ),
}
