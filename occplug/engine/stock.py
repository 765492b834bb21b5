"""torchreid's own engines and models, with our evaluation, checkpoints and bookkeeping."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch

from occplug.distributed import Splitter
from occplug.engine.base import RunMixin
from occplug.engine.checkpoint import load_weights
from occplug.engine.contents import check_parts
from occplug.engine.randomness import restore_random_states
from occplug.engine.resuming import check_epochs, restore_moments, wind_forward
from occplug.engine.speeding import fused
from occplug.errors import ConfigError
from occplug.method import Method
from occplug.torchreid_host import ImageSoftmaxEngine, ImageTripletEngine, build_lr_scheduler, build_optimizer

__all__ = ["stock_engine"]


class _StockMixin(RunMixin):
    def forward_backward(self, data: dict) -> dict[str, float]:
        values = super().forward_backward(data)  # type: ignore[misc]  # of the engine this is mixed into
        self.note_losses(values, data)
        return values

    def planned(self) -> dict[str, int]:
        """Epochs of the one stage."""
        return {self.stage_name: self.cfg.train.max_epoch}

    def run_stages(self, resumed: dict | None = None) -> None:
        """The one stage a stock model has, then the test."""
        splitter = Splitter(self.ranks, self.cfg.train.micro_batch)
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        hook = self.optimizer.register_step_pre_hook(lambda *_: splitter.reduce(trained))
        with self.running(), splitter.installed(self.model):
            self._run_one(resumed)
        hook.remove()

    def _run_one(self, resumed: dict | None) -> None:
        start = 0
        if resumed is not None:
            path = self.folder / "checkpoints" / "last.pth"
            check_parts(resumed, ("optimizer", "random", "epoch", "seconds"), path)
            start, self.seconds = resumed["epoch"], resumed["seconds"]
            check_epochs(self.stage_name, start, self.cfg.train.max_epoch, path)
            load_weights(self.model, resumed["state_dict"], path)
            wind_forward(self.scheduler, start)
            restore_moments(self.optimizer, resumed["optimizer"], path)
            restore_random_states(resumed["random"], path)
        else:
            self.save_state(0)
        if self.cfg.train.max_epoch:
            self.run_stage(self.cfg.train.max_epoch, start)
        else:
            self.test(**self.test_options())


class _StockSoftmax(_StockMixin, ImageSoftmaxEngine):
    """torchreid's softmax engine."""


class _StockTriplet(_StockMixin, ImageTripletEngine):
    """torchreid's triplet engine."""


@contextlib.contextmanager
def _settings_named(keys: str):
    """What torch and torchreid object to when they build an optimiser, as a ConfigError that names `keys`."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AssertionError) as error:
        raise ConfigError(f"torchreid cannot train with these settings ({error}); change {keys}") from error


def stock_engine(cfg, data, method: Method, folder: Path, device: torch.device, limit: int | None = None):
    """torchreid's engine for `cfg.loss.name` that trains the model in `method`, by torchreid's optimiser keys.

    Args:
        method: of the class `is_stock`, on `device`; its `net` is what torchreid trains.
    """
    t, model = cfg.train, method.net
    with _settings_named("train.lr, train.optim, sgd.*, rmsprop.* or adam.*"):
        optimizer = build_optimizer(
            model,
            optim=t.optim,
            lr=t.lr,
            weight_decay=t.weight_decay,
            momentum=cfg.sgd.momentum,
            sgd_dampening=cfg.sgd.dampening,
            sgd_nesterov=cfg.sgd.nesterov,
            rmsprop_alpha=cfg.rmsprop.alpha,
            adam_beta1=cfg.adam.beta1,
            adam_beta2=cfg.adam.beta2,
            staged_lr=t.staged_lr,
            new_layers=t.new_layers,
            base_lr_mult=t.base_lr_mult,
        )
    optimizer = fused(optimizer) if cfg.run.fused else optimizer
    with _settings_named("train.lr_scheduler, train.stepsize, train.gamma or train.max_epoch"):
        scheduler = build_lr_scheduler(
            optimizer, lr_scheduler=t.lr_scheduler, stepsize=t.stepsize, gamma=t.gamma, max_epoch=max(t.max_epoch, 1)
        )
    common = dict(scheduler=scheduler, use_gpu=device.type == "cuda", label_smooth=cfg.loss.softmax.label_smooth)
    if cfg.loss.name == "triplet":
        weights = dict(
            margin=cfg.loss.triplet.margin, weight_t=cfg.loss.triplet.weight_t, weight_x=cfg.loss.triplet.weight_x
        )
        engine = _StockTriplet(data, model, optimizer, **weights, **common)
    else:
        engine = _StockSoftmax(data, model, optimizer, **common)
    engine.setup_run(cfg, method, folder, device, limit)
    return engine
