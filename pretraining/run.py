"""One pretraining run: render in the background, train in one or more processes, save as it goes."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from occplug.backbones import tiny
from occplug.utils.integrity import check_archive
from pretraining import parallel
from pretraining.pool import CHUNK, IMAGES_PER_PERSONA, Pool, render_chunks, shares_of
from pretraining.render import Scene, caption_of, draw_persona
from pretraining.temperature import fold_logit_scale, mean_norms
from pretraining.texts import vocabulary
from pretraining.trainer import Trainer, TrainingPlan

__all__ = ["pretrain", "pretraining_scene"]

log = logging.getLogger(__name__)
SAVE_SECONDS = 120
CHECKPOINT = "checkpoint.pt"
COUNTED_CHUNKS = 4  # of the images, among which the values of the attributes are counted
NORM_SAMPLE = 256  # images and captions whose norms the temperature is folded by
OCCLUDED = 0.4  # share of the images; enough for every kind of occluder to be learnt


def pretraining_scene(args: argparse.Namespace) -> Scene:
    """World 500: other people and other cameras than the benchmark's, at full severity."""
    return Scene(seed=500, cameras=args.cameras, severity=1.0, occluded=OCCLUDED)


def pretrain(args: argparse.Namespace, cache: Path) -> Trainer:
    """Run or continue a pretraining; -> the trainer, finished unless its `progress` is below 1 (Ctrl-C).

    `args` has the options of `occplug pretrain-clip`; `cache` takes chunks of images, the checkpoint, and the meeting
    file of the processes.
    """
    chunks = -(-args.personas * IMAGES_PER_PERSONA // CHUNK)
    scene = pretraining_scene(args)
    helpers = [parallel.spawn(_render, cache, list(range(i, chunks, args.workers)), scene) for i in range(args.workers)]
    meeting = cache / "meeting"
    meeting.unlink(missing_ok=True)
    helpers += [parallel.spawn(_train, args, cache, rank) for rank in range(1, args.threads)]
    try:
        return _train(args, cache, 0)
    finally:
        for helper in helpers[args.workers :]:
            helper.join(timeout=30)
        for helper in helpers:
            helper.terminate()


def _render(cache: Path, numbers: list[int], scene: Scene) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    render_chunks(cache, numbers, scene)


def _train(args: argparse.Namespace, cache: Path, rank: int) -> Trainer:
    """The loop of one process; all leave it at the same step."""
    torch.set_num_threads(1)
    stop = _StopOnInterrupt()
    parallel.join(rank, args.threads, cache / "meeting")
    scene = pretraining_scene(args)
    ids = vocabulary(caption_of(draw_persona(scene.seed, scene.group_size, pid)) for pid in range(2000))
    plan = TrainingPlan(samples=args.samples, minutes=args.minutes, batch=args.batch)
    chunks = -(-args.personas * IMAGES_PER_PERSONA // CHUNK)
    pool = Pool(cache, chunks, scene, rank, args.threads)
    counted = range(min(COUNTED_CHUNKS, chunks))
    while pool.refresh() < max(1, args.start * len(pool.wanted)) or not all(pool.exists(i) for i in counted):
        time.sleep(1)
        if stop.asked:
            raise KeyboardInterrupt
    trainer = Trainer(ids, plan, shares_of(pool.labels(counted)), rank, args.threads)
    if args.init is not None:
        trainer.start_from(tiny.load(args.init))
    if args.resume and (cache / CHECKPOINT).is_file():
        check_archive(cache / CHECKPOINT)
        trainer.load_state_dict(torch.load(cache / CHECKPOINT, weights_only=True))
    _loop(trainer, pool, args, cache, stop)
    parallel.leave()
    return trainer


class _StopOnInterrupt:
    """Ctrl-C ends the loop after the step in hand, so that the saved state is whole."""

    def __init__(self):
        self.asked = False
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, *_) -> None:
        self.asked = True


def _loop(trainer: Trainer, pool: Pool, args: argparse.Namespace, cache: Path, stop: _StopOnInterrupt) -> None:
    draw = np.random.default_rng([trainer.plan.seed, trainer.rank, trainer.steps])
    share, saved = trainer.plan.batch // trainer.world, time.monotonic()
    bar = tqdm(total=trainer.plan.samples, initial=trainer.samples, unit=" samples", disable=trainer.rank > 0)
    mean: dict[str, float] = {}
    while trainer.progress < 1 and not parallel.broadcast([stop.asked])[0]:
        losses = trainer.step(*pool.batch(share, draw))
        mean = {name: 0.95 * mean.get(name, value) + 0.05 * value for name, value in losses.items()}
        bar.update(share * trainer.world)
        if trainer.steps % 20 == 0:
            pool.refresh()
            bar.set_postfix({k: f"{v:.3f}" for k, v in mean.items()}, images=len(pool.images) * CHUNK)
        if trainer.rank == 0 and time.monotonic() - saved > SAVE_SECONDS:
            _save(trainer, pool, args, cache)
            saved = time.monotonic()
    bar.close()
    if trainer.rank == 0:
        _save(trainer, pool, args, cache)


def _save(trainer: Trainer, pool: Pool, args: argparse.Namespace, cache: Path) -> None:
    """Checkpoint for --resume in the cache; at --out the weights, whose raw products are at the learnt temperature."""
    temporary = cache / f"{CHECKPOINT}.part"
    torch.save(trainer.state_dict(), temporary)
    temporary.replace(cache / CHECKPOINT)
    before = 0 if args.init is None else int(tiny.read_metadata(args.init)["samples"])
    metadata = {"world": "500", "samples": str(before + trainer.samples), "personas": str(args.personas)}
    images, captions, _ = pool.batch(min(NORM_SAMPLE, CHUNK // 4), np.random.default_rng(0))
    norms = mean_norms(trainer.model, images, *trainer.tokenize(captions))
    state = fold_logit_scale(trainer.model.state_dict(), *norms, args.image_norm)
    tiny.save(args.out, state, trainer.token_ids, metadata | {"image_norm": f"{args.image_norm:g}"})
