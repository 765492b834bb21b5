"""The engine that drives any method through its stages."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from occplug.distributed import SplitImages, Splitter
from occplug.engine.base import RunMixin, StageRecord
from occplug.engine.checkpoint import check_same_run, load_weights
from occplug.engine.contents import check_parts
from occplug.engine.freezing import close_layers
from occplug.engine.randomness import restore_random_states
from occplug.engine.resuming import check_epochs, restore_moments, restore_scaler, wind_forward
from occplug.engine.speeding import fused
from occplug.errors import CheckpointError, TrainingError
from occplug.method import ExtraOptimizer, Method, Stage, parameter_groups
from occplug.torchreid_host import Engine
from occplug.transforms import RawBatch

__all__ = ["MethodEngine"]

log = logging.getLogger(__name__)
AMP_TYPES = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class MethodEngine(RunMixin, Engine):
    """Trains a method stage by stage through torchreid's `Engine`, and evaluates it by the method's distance.

    Args:
        cfg: resolved config; reads `amp`, `run`, `test`, `train`, `eval`.
        data: data manager (torchreid's attributes, plus `pids`, `cameras`, `summary`, `cache_loader`).
        method: already on `device`.
        folder: where the run leaves its files.
        limit: batches per epoch, for dry runs; None for all.
    """

    def __init__(self, cfg, data, method: Method, folder: Path, device: torch.device, limit: int | None = None):
        super().__init__(data, use_gpu=device.type == "cuda")
        self.setup_run(cfg, method, folder, device, limit)
        self.model = method
        self.stages = method.stages()
        dtype = AMP_TYPES[cfg.amp.dtype] if device.type == "cuda" else None
        self.amp_dtype = dtype
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.splitter = Splitter(self.ranks, cfg.train.micro_batch)

    # ------------------------------------------------------------------ stages

    def run_stages(self, resumed: dict | None = None, path: Path | None = None) -> None:
        """Train every stage that is not done yet, then test.

        Args:
            resumed: a checkpoint's state to go on from, or None for a fresh run. A resumable state goes on within its
                stage; one written at the end of a stage (it has no optimiser) goes on with the next.
            path: its file, for error messages; None for this run's own.

        Raises:
            CheckpointError: weights of another model, other classes or another template.
        """
        first, within = 0, None
        if resumed is not None:
            is_of_this_run = path is None  # then only the test may be left
            path = path or self.folder / "checkpoints" / "last.pth"
            check_parts(resumed, ("stage", "epoch", "seconds", "records"), path)
            within = resumed if "optimizer" in resumed else None
            first = self._place(resumed["stage"], path) + (within is None)
            if first == len(self.stages) and not is_of_this_run:
                raise CheckpointError(
                    f"{path} is of the last stage, so nothing is left to train; occplug test evaluates it"
                )
            check_same_run(resumed, self.model.bound_to(), list(self.datamanager.pids), path)
            load_weights(self.model, resumed["state_dict"], path)
            self.records = [StageRecord(**record) for record in resumed["records"]][:first]
            if within is None:  # written before its own stage was on record
                self.records.append(StageRecord(resumed["stage"], resumed["epoch"], resumed["seconds"]))
        with self.running(), self.splitter.installed(self.model):
            for index, stage in enumerate(self.stages):
                if index >= first:
                    self._run_one(index, stage, within if index == first else None)
        if not self.results:  # the last stage had no epoch
            self.evaluates = True
            self.test(**self.test_options())

    def _run_one(self, index: int, stage: Stage, resumed: dict | None) -> None:
        self.stage, self.stage_name, self.stage_index = stage, stage.name, index
        self.trained_epochs = sum(s.epochs for s in self.stages[:index])
        self.evaluates = index == len(self.stages) - 1
        self.seconds = 0.0
        parts = [ExtraOptimizer(stage.groups, stage.optimizer), *stage.extra_optimizers]
        groups = parameter_groups(self.model, [group for part in parts for group in part.groups])
        log.info("%s: %d epochs, trains %s", stage.name, stage.epochs, _summary(groups))
        self.model.eval()
        stage.prepare(self.datamanager, self.device)
        self.train_loader = stage.loader(self.datamanager) if stage.loader else self.datamanager.train_loader
        self.steppers = [_Stepper(part, groups, stage.schedule, self.cfg.run.fused) for part in parts]
        self.optimizer, self.scheduler = self.steppers[0].optimizer, self.steppers[0].scheduler
        self.register_model("model", self.model, self.optimizer, self.scheduler)
        self.first_step = True
        start = 0
        if resumed is not None:
            start, self.seconds = resumed["epoch"], resumed["seconds"]
            self._restore(resumed, self.folder / "checkpoints" / "last.pth")
        else:
            self.save_state(0)  # so that an interruption in the first epoch can be resumed
        self.run_stage(stage.epochs, start)

    def _restore(self, resumed: dict, path: Path) -> None:
        """Moments, draws and the loss scale of `resumed`; rates and schedules are the config's."""
        check_parts(resumed, ("scaler", "random"), path)
        check_epochs(self.stage_name, resumed["epoch"], self.stage.epochs, path)
        saved_extra = resumed.get("extra_optimizers", resumed.get("companions", []))  # the older key
        if len(saved_extra) != len(self.steppers) - 1:
            raise CheckpointError(
                f"{path} holds the states of {1 + len(saved_extra)} optimisers, and {self.stage_name} has "
                f"{len(self.steppers)} with this config; set its options as in the file, or start a new run"
            )
        states = [resumed["optimizer"], *(extra["optimizer"] for extra in saved_extra)]
        for stepper, saved in zip(self.steppers, states):
            wind_forward(stepper.scheduler, resumed["epoch"])
            restore_moments(stepper.optimizer, saved, path)
        restore_scaler(self.scaler, resumed["scaler"])
        restore_random_states(resumed["random"], path)

    def planned(self) -> dict[str, int]:
        """Epochs of each stage."""
        return {stage.name: stage.epochs for stage in self.stages}

    def after_epoch(self) -> None:
        """What the stage does between epochs, without gradient."""
        with torch.no_grad():
            self.stage.after_epoch()
        super().after_epoch()

    def state(self, epoch: int, rank1: float) -> dict:
        """The base's, with the loss scale, the extra optimizers, and what tensors are bound to."""
        extra_optimizers = [stepper.state_dict() for stepper in self.steppers[1:]]
        further = {
            "scaler": self.scaler.state_dict(),
            "extra_optimizers": extra_optimizers,
            "bound_to": self.model.bound_to(),
        }
        return {**super().state(epoch, rank1), **further}

    def update_lr(self, names=None) -> None:
        """torchreid steps the one scheduler it knows; extra optimizers have their own."""
        super().update_lr(names)
        for stepper in self.steppers[1:]:
            stepper.scheduler.step()

    def set_model_mode(self, mode: str = "train", names=None) -> None:
        """torchreid would put every module into train mode; frozen ones stay in eval mode here."""
        super().set_model_mode(mode, names)
        if mode == "train":
            close_layers(self.model)

    def two_stepped_transfer_learning(self, *args, **kwargs) -> None:
        """torchreid would re-open every frozen layer at each epoch; what trains is the stage's to say."""

    # ------------------------------------------------------------------ one step

    def forward_backward(self, data: dict) -> dict[str, float]:
        """One step on `data` of each of the stage's optimisers; returns the unweighted losses and their weighted sum.

        Optimisers with a separate pass step on losses computed again; the values are those of the first pass. In an
        epoch on a GPU values come one step later (:class:`occplug.engine.losses.LossReader`), and {} is returned.
        """
        self.reader.begin()
        moved = (Tensor, SplitImages, RawBatch)
        batch = {k: v.to(self.device, non_blocking=True) if isinstance(v, moved) else v for k, v in data.items()}
        batch["epoch"] = self.epoch + 1
        together = [stepper for stepper in self.steppers if not stepper.own_pass]
        alone = [[stepper] for stepper in self.steppers if stepper.own_pass]
        values = []
        for steppers in [together, *alone]:
            with _training_only(self.steppers, steppers):
                values.append(self._pass(batch, steppers))
        self.scaler.update()
        with torch.no_grad():
            self.stage.after_step(batch)
        self.first_step = False
        return values[0]

    def note_losses(self, values: dict[str, float], batch: dict) -> None:
        """As the inherited one; values that come late are also written here, since torchreid, which writes, gets none.

        Args:
            batch: as of `check_finite`, with `batch_idx`.
        """
        super().note_losses(values, batch)
        if self.reader.delays and self.writer is not None:
            done = batch["batch_idx"] + 1
            for name in values:
                step = self.epoch * len(self.progress) + done - 1
                self.writer.add_scalar(f"Train/{name}", self.sums[name] / done, step)

    def _place(self, stage: str, path) -> int:
        names = [each.name for each in self.stages]
        if stage not in names:
            raise CheckpointError(f"{path} is of the stage {stage!r}, and this run has the stages {', '.join(names)}")
        return names.index(stage)

    def _pass(self, batch: dict, steppers: list[_Stepper]) -> dict[str, float]:
        """Losses of `batch`, their gradients, and one step of `steppers`."""
        autocast = torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)
        with autocast, self.splitter.step():
            losses = self.stage.losses(batch)
        if losses.keys() != self.stage.weights.keys():
            raise TrainingError(f"{self.stage.name} returns {sorted(losses)} and weighs {sorted(self.stage.weights)}")
        total = cast(Tensor, sum(self.stage.weights[name] * loss for name, loss in losses.items()))
        note = self.check_finite if steppers[0].own_pass else self.note_losses
        about = {"impath": batch.get("impath", []), "batch_idx": self.batch_idx}
        values = self.reader.read({**losses, "loss": total}, partial(note, batch=about))
        for stepper in steppers:
            stepper.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(total).backward()
        self.splitter.reduce(parameter for stepper in steppers for parameter in stepper.parameters)
        if self.first_step:
            self._check_gradients()
        if self.cfg.run.clip_grad_norm > 0:
            for stepper in steppers:
                self.scaler.unscale_(stepper.optimizer)
            trained = [parameter for stepper in steppers for parameter in stepper.parameters]
            nn.utils.clip_grad_norm_(trained, self.cfg.run.clip_grad_norm)
        for stepper in steppers:
            self.scaler.step(stepper.optimizer)
        return values

    def _check_gradients(self) -> None:
        dead = [name for name, p in self.model.named_parameters() if p.requires_grad and p.grad is None]
        if dead:
            raise TrainingError(f"{self.stage.name} trains parameters its losses do not reach: {', '.join(dead)}")


class _Stepper:
    """An optimiser of a stage with its schedule.

    Args:
        part: what it trains and how.
        groups: those of the whole stage, as `parameter_groups` gives them; its own are taken.
        schedule: for groups that have none.
        is_fused: the optimiser in its fused form.
    """

    def __init__(self, part: ExtraOptimizer, groups: list[dict], schedule, is_fused: bool = False):
        chosen = [group for group in groups if any(group["of"] is wanted for wanted in part.groups)]
        self.own_pass = part.own_pass
        self.parameters = [parameter for group in chosen for parameter in group["params"]]
        optimizer = part.optimizer([{key: g[key] for key in ("params", "lr", "weight_decay")} for g in chosen])
        self.optimizer = fused(optimizer) if is_fused else optimizer
        factors = [_from_zero(g["of"].schedule or schedule) for g in chosen]
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factors)

    def state_dict(self) -> dict:
        return {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}


@contextlib.contextmanager
def _training_only(everything: list[_Stepper], steppers: list[_Stepper]):
    """Gradients for the parameters of `steppers` alone: a pass for a few of them need not go back through the rest."""
    resting = [parameter for s in everything if s not in steppers for parameter in s.parameters]
    for parameter in resting:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in resting:
            parameter.requires_grad_(True)


def _summary(groups: list[dict]) -> str:
    tensors = sum(len(g["params"]) for g in groups)
    numbers = sum(p.numel() for g in groups for p in g["params"])
    rates = ", ".join(f"{g['lr']:g}" for g in groups)
    return f"{tensors} tensors, {numbers / 1e6:.3f} M numbers, base rates {rates}"


def _from_zero(schedule: Callable[[int], float]) -> Callable[[int], float]:
    """`schedule`, which counts epochs from 1, by the number of epochs that are done."""
    return lambda done: schedule(done + 1)
