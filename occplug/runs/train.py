"""Training: every stage of a config, then the final test."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from pathlib import Path

import torch
from filelock import Timeout

from occplug.config import save_config
from occplug.config.changes import changed_keys, check_changes
from occplug.data.cameras import check_cameras
from occplug.data.manager import DataManager, GeneratedDataManager
from occplug.data.recognition import ImageMarks
from occplug.data.versions import other_versions
from occplug.distributed import current_ranks, join_ranks
from occplug.engine import check_run, check_same_run, load_checkpoint
from occplug.engine.contents import TO_RESUME, check_parts
from occplug.engine.loggers import check_loggers
from occplug.errors import CheckpointError, ConfigError
from occplug.registry import model_class
from occplug.runs.failures import failures_named
from occplug.runs.preflight import check_disk, check_images, check_matches, check_memory, write_splits
from occplug.runs.record import embedded
from occplug.runs.same_start import check_same_start, check_same_weights
from occplug.runs.session import build_engine, describe_protocol, prepare, start_logging, write_metrics
from occplug.utils.files import check_text, user_path
from occplug.utils.measuring import GIB, peak_memory
from occplug.utils.processes import held, holder_of

__all__ = ["dry_run", "train"]

log = logging.getLogger(__name__)


def train(cfg, resume: bool = False, after: str | None = None, config_file: str = "") -> dict:
    """Train and test `cfg`; returns what `metrics.json` holds.

    Under torchrun all its processes train one run together (:mod:`occplug.distributed`), and rank 0 writes its files.

    Args:
        resume: go on with the interrupted run in `data.save_dir`; `after` is not read again then. With torchrun's
            `--max-restarts` a run that has no state yet starts anew.
        after: checkpoint another run wrote at the end of a stage; training starts with the stage after it.
        config_file: where `cfg` was read, noted in `metrics.json`.

    Raises:
        ConfigError: the folder holds another run and `resume` is off, another process trains in it, test-only keys
            are set, or batches cannot be dealt to the processes.
        DataError: the processes have other data, keys or code.
        OutputError: the name of data.save_dir is not text.
        CheckpointError: nothing to resume from, a run on other data, or weights of other classes or another template.
    """
    with join_ranks(cfg.use_gpu and torch.cuda.is_available()) as ranks:
        newest = Path(cfg.data.save_dir) / "checkpoints" / "last.pth"
        resume = resume and ranks.from_main(lambda: _has_begun(newest))
        path = None if resume or after is None else user_path(after)
        state = ranks.from_main(lambda: _start(cfg, newest, path, resume))
        with ranks.entered_by_main(_locked(cfg, newest.parents[1] / ".lock")), failures_named(cfg.data.save_dir):
            return _train(cfg, config_file, state, path or newest, bool(path))


def _has_begun(newest: Path) -> bool:
    """Whether a run that resumes has a state. Without one it starts anew where torchrun may start it again, as its
    processes may have ended before the first state. Elsewhere that is a mistake, which is left to `_state_to_resume`.
    """
    if newest.exists() or int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) < 1:
        return True
    log.warning("%s is not there yet, so the run starts from the beginning", newest)
    return False


def _start(cfg, newest: Path, path: Path | None, resume: bool) -> dict | None:
    """The state to go on from: of the file `path` that ended a stage, of `newest` to `resume`, or None."""
    check_text(newest)
    if newest.exists() and not resume:
        raise ConfigError(
            f"{cfg.data.save_dir} already holds a run: add --resume to go on with it, or set data.save_dir"
        )
    return _finished_stage(path, cfg) if path else _state_to_resume(newest, cfg) if resume else None


@contextlib.contextmanager
def _locked(cfg, lock: Path):
    """Nobody else trains in the folder of `cfg` meanwhile. Raises ConfigError if somebody does."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(lock, f"the run in {cfg.data.save_dir}"))
        except Timeout:
            problem = f"another process trains in {cfg.data.save_dir} ({holder_of(lock)})"
            raise ConfigError(f"{problem}; wait for it, or set data.save_dir") from None
        yield


def _train(cfg, config_file: str, state: dict | None, source: Path, is_after: bool) -> dict:
    """`train` in a folder of its own, from `state` of the file `source`, which ended a stage of another run or not."""
    check_loggers(cfg.run.logger)
    folder, device = prepare(cfg, saves=state is None)
    ranks = current_ranks()
    with ranks.local_main_first():
        data = DataManager(cfg)
    check_same_start(cfg, data)
    check_cameras(cfg, data)
    check_matches(data)
    check_images(data)
    images = ImageMarks.of(data).as_dict() if ranks.is_main else None  # who saves
    with ranks.local_main_first():  # who finds no initial weights fetches them
        engine = build_engine(cfg, data, folder, device, pretrained=state is None)
    if state is None:
        check_same_weights(engine.model)
    # a state has the weights that came of the files of its time; states of early versions do not say which
    engine.embedded = embedded(cfg) if state is None else state.get("embedded")
    engine.images = images
    if state is not None:
        check_same_run(state, engine.method.bound_to(), list(data.pids), source)
        _check_same_data(state, data, source)
        if is_after:
            _note_other_settings(cfg, engine, state)
        else:
            _note_changes(cfg, engine, state, source)
        if ranks.is_main:
            save_config(cfg, folder / "config.yaml")  # not before: a refused run must stay as it is
    check_memory(engine, cfg)
    ranks.from_main(lambda: check_disk(engine.model, len(engine.planned()), folder))
    ranks.from_main(lambda: write_splits(data, folder))
    try:
        engine.run_stages(state, source) if is_after else engine.run_stages(state)
    except KeyboardInterrupt:
        log.info("interrupted; go on with: %s", _to_go_on(folder, ranks.world))
        raise
    finally:
        data.close()
    protocol = describe_protocol(cfg, cfg.test.rerank, engine.camera_rows, data=data, squared=engine.squared_distance)
    return write_metrics(cfg, engine, config_file, protocol, folder / "metrics.json")


def _to_go_on(folder: Path, world: int) -> str:
    """The command that resumes the run in `folder` of `world` processes, in words."""
    if world > 1:
        return "the same torchrun command with --resume, on as many processes as you like"
    return f"occplug train --config-file {folder / 'config.yaml'} --resume"


def _state_to_resume(path: Path, cfg) -> dict:
    if not path.exists():
        raise CheckpointError(f"{path}: nothing to resume from; run without --resume first, or check data.save_dir")
    state = load_checkpoint(path)
    check_run(state, path)
    check_parts(state, TO_RESUME, path)
    return state


def _note_changes(cfg, engine, state: dict, path: Path) -> None:
    """Say and record which keys the config has changed since `state` was saved, or refuse one. Raises ConfigError."""
    changes = changed_keys(state["config"], cfg)
    planned = engine.planned()
    stages = list(planned)
    at = stages.index(state["stage"]) if state["stage"] in stages else 0
    is_last = at == len(stages) - 1 and state["epoch"] >= planned[stages[at]]
    check_changes(changes, stages[:at], is_last, str(path))
    _record_changes(engine, state, changes)


def _note_other_settings(cfg, engine, state: dict) -> None:
    """Say and record which keys the stages that `state` brings were trained with otherwise; they stay as they are."""
    stages = list(engine.planned())
    later = stages[stages.index(state["stage"]) + 1 :] if state["stage"] in stages else []
    changes = {
        key: values
        for key, values in changed_keys(state["config"], cfg).items()
        if not key.startswith(tuple(f"method.{stage}." for stage in later))
    }
    _record_changes(engine, state, changes)


def _record_changes(engine, state: dict, changes: dict[str, tuple]) -> None:
    engine.changes = list(state.get("changes", []))
    if changes:
        told = "; ".join(f"{key} {then!r} -> {now!r}" for key, (then, now) in changes.items())
        log.warning("from %s after %d epochs on with another config: %s", state["stage"], state["epoch"], told)
        keys = {key: list(values) for key, values in changes.items()}
        engine.changes.append({"stage": state["stage"], "epoch": state["epoch"], "changed": keys})


def _finished_stage(path: Path, cfg) -> dict:
    """The state of a stage's closing checkpoint that `cfg` has later stages for."""
    state = load_checkpoint(path)
    check_run(state, path)
    check_parts(state, TO_RESUME, path)
    if "optimizer" in state:
        raise CheckpointError(f"{path} is a state to --resume from; --after takes the file of a finished stage")
    if model_class(cfg.model.name).is_stock:
        raise ConfigError(f"{cfg.model.name} trains in one stage, so there is no later one to train; leave out --after")
    return state


def _check_same_data(state: dict, data: DataManager, path: Path) -> None:
    before, now = state["data"], data.summary()
    for name in other_versions(before, now):
        raise CheckpointError(
            f"{path} was trained on another version of {name}: {_counts(before[name])} then, {_counts(now[name])} now; "
            "resume on the same files, or start a new run in another data.save_dir"
        )


def _counts(summary: dict) -> str:
    return f"{summary['train']} training, {summary['query']} query and {summary['gallery']} gallery images"


def dry_run(cfg, config_file: str = "") -> None:
    """Build everything of `cfg` at full size and run two steps of each stage and a small test on generated images.

    The batch is cut to two identities, or one for each process, so that a laptop can do it; initial weights are
    random. Nothing is kept.
    """
    before = time.process_time()
    with join_ranks(cfg.use_gpu and torch.cuda.is_available()), tempfile.TemporaryDirectory() as folder:
        small = _shortened(cfg, folder)
        _, device = prepare(small)
        data = GeneratedDataManager(small, num_classes=8, num_cameras=4)
        engine = build_engine(small, data, Path(folder), device, limit=2, pretrained=False)
        engine.run_stages()
        spent = time.process_time() - before
        cost = f"{spent:.0f} s of processor time, {peak_memory() / GIB:.1f} GiB of memory at the peak"
        log.info("dry run of %s: %d stages and a test went through; %s", config_file, len(engine.records), cost)
        log.info("images were generated in place of the data sets, so mAP and Rank-1 above mean nothing")
        start_logging()  # closes the log file before its folder goes


def _shortened(cfg, folder: str):
    """`cfg` with one epoch a stage and two identities a batch; shapes stay."""
    small = cfg.clone()
    small.defrost()
    small.data.save_dir, small.data.workers = folder, 0
    small.train.batch_size = max(2, current_ranks().world) * cfg.sampler.num_instances
    small.train.max_epoch = 1
    for node in small.method.values():
        if isinstance(node, dict) and "epochs" in node:
            node["epochs"] = 1
    small.freeze()
    return small
