"""Entries of the zoo replayed: their weights evaluated, or their runs trained, once more, and the figures compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from occplug.config import load_config
from occplug.config.files import Setting
from occplug.errors import ConfigError, OccplugError
from occplug.runs.candidates import Candidate, config_of, config_path, entry_settings
from occplug.runs.evaluate import evaluate_candidate
from occplug.runs.session import start_logging
from occplug.runs.train import train
from occplug.utils.files import user_path
from occplug.zoo.fetching import fetch
from occplug.zoo.index import Entry, Index, Run
from occplug.zoo.verifying import Finding, compare, spread_over_seeds
from occplug.zoo.weights import read_test_weights

__all__ = ["Replay", "verify_entries"]


@dataclass(frozen=True)
class Replay:
    """How entries are replayed.

    Args:
        save_dir: folder of the replays, one below it for each entry.
        trains: train again (one seed) in place of evaluating the weights.
        options: config keys and values over those of every entry.
    """

    save_dir: str = "log/verify"
    trains: bool = False
    options: Sequence[str] = ()


def verify_entries(index: Index, names: Sequence[str], replay: Replay, show: Callable[[str], None]) -> int:
    """Replay the entries `names`, by default all with weights in the package; returns how many gave their figures.

    Args:
        show: is given the findings of each entry as text, as soon as they are known.

    Raises:
        ConfigError: a figure has moved, or an entry could not be replayed; the others are replayed all the same.
    """
    entries = [index.find(name) for name in names]
    entries = entries or [entry for entry in index.entries.values() if entry.ours and index.path_of(entry)]
    if not entries:
        raise ConfigError("no entry has weights in the package; name entries, or fill some with occplug zoo export")
    outcomes = [(entry.name, _outcome(index, entry, replay, show)) for entry in entries]
    failed = [f"{name} ({outcome})" for name, outcome in outcomes if outcome]
    if failed:
        raise ConfigError(f"{len(failed)} of {len(entries)} entries do not give their figures: {'; '.join(failed)}")
    return len(entries)


def _outcome(index: Index, entry: Entry, replay: Replay, show: Callable[[str], None]) -> str:
    """Replay `entry` and show the findings; returns what is wrong, "" if it gives its figures."""
    try:
        finding = _replay(index, entry, replay)
        lines, wrong = finding.lines(), "" if finding.passed else finding.verdict()
    except (OccplugError, OSError, RuntimeError) as error:  # also a full disk or GPU: the others are still asked
        lines, wrong = [f"could not be verified: {error}"], str(error)
    finally:
        start_logging()
    show(f"\n{entry.name}\n  " + "\n  ".join(lines))
    return wrong


def _replay(index: Index, entry: Entry, replay: Replay) -> Finding:
    run = _recorded(entry)
    is_ours = entry.checkpoint is not None and entry.checkpoint.seed is not None
    if not is_ours and not replay.trains:
        raise ConfigError(f"{entry.name} has no weights of our runs to evaluate; --train trains it again")
    folder = user_path(replay.save_dir) / entry.name / ("train" if replay.trains else "test")
    of_run = {"train.seed": run.seed, "data.save_dir": str(folder)}
    taken = [key for key in replay.options[::2] if key in of_run or key == "data.targets"]
    if taken:
        raise ConfigError(f"zoo verify sets {', '.join(taken)} itself; leave it out (--save-dir: where replays go)")
    replayed = [Setting(key, value, "zoo verify") for key, value in of_run.items()]
    cfg = load_config(config_path(entry), [*entry_settings(entry, measured=True), *replayed, *replay.options])
    checkpoint = entry.checkpoint
    weights = read_test_weights(fetch(index, entry), checkpoint.format, cfg) if checkpoint and is_ours else None
    before = config_of(weights.config) if weights is not None and weights.config else None
    if replay.trains:
        metrics = _train_again(cfg, entry.config)
    else:
        assert weights is not None  # checked at the start
        metrics = evaluate_candidate(Candidate(cfg, entry.config, weights))
    spread = spread_over_seeds(index.entries.values(), entry.data) if replay.trains else None
    return compare(entry, run, metrics, cfg, before, spread)


def _recorded(entry: Entry) -> Run:
    """The run whose figures a replay of `entry` must give: the one its checkpoint is from, else the first."""
    if entry.ours is None:
        raise ConfigError(f"{entry.name} has no figures of ours to compare with; occplug zoo export fills them")
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
