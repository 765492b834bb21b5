"""A training goes on from a saved state: from there come weights, moments and draws; from the config all settings.

Rates, decays, betas and schedules stand in the config and, because torch saves them too, in the state of every
optimiser and most schedulers. The config's are used, so that what a run logs and saves is what it trains with.
"""

from __future__ import annotations

import warnings

import torch

from occplug.errors import CheckpointError, ConfigError

__all__ = ["check_epochs", "restore_moments", "restore_scaler", "wind_forward"]


# class of optimiser -> moments that each trained tensor must have, and those it may have
_MOMENTS = {
    "Adam": ({"step", "exp_avg", "exp_avg_sq"}, {"max_exp_avg_sq"}),
    "AdamW": ({"step", "exp_avg", "exp_avg_sq"}, {"max_exp_avg_sq"}),
    "RAdam": ({"step", "exp_avg", "exp_avg_sq"}, set()),
    "RMSprop": ({"step", "square_avg"}, {"momentum_buffer", "grad_avg"}),
    "SGD": (set(), {"momentum_buffer"}),
}


def restore_moments(optimizer: torch.optim.Optimizer, saved: dict, path) -> None:
    """Give `optimizer` the moments of `saved`, a `state_dict`; its own rates, decays and other settings stay.

    Raises:
        CheckpointError: the moments are of another kind of optimiser, or of other parameters.
    """
    built = optimizer.state_dict()["param_groups"]
    there, here = ([len(group["params"]) for group in groups] for groups in (saved["param_groups"], built))
    if there != here:
        raise CheckpointError(
            f"{path} was trained with other groups of parameters ({there} tensors, {here} here); set what trains as in "
            "the file, or start a new run"
        )
    _check_moments(optimizer, saved["state"], path)
    optimizer.load_state_dict({"state": saved["state"], "param_groups": built})


def _check_moments(optimizer: torch.optim.Optimizer, state: dict, path) -> None:
    needed, optional = _MOMENTS.get(type(optimizer).__name__, (None, None))
    groups = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    for number, moments in state.items():
        if type(number) is not int or not 0 <= number < len(groups) or not isinstance(moments, dict):
            raise CheckpointError(f"{path}: the state of its optimiser is damaged; resume from another file")
        parameter, group = groups[number]
        wanted = None if needed is None else needed | ({"max_exp_avg_sq"} if group.get("amsgrad") else set())
        if wanted is not None and not wanted <= moments.keys() <= wanted | (optional or set()):
            raise CheckpointError(
                f"{path} holds the state of another optimiser ({', '.join(sorted(map(str, moments)))}) than the "
                f"{type(optimizer).__name__} of this config; set the optimiser (train.optim, or "
                "method.STAGE.optimizer) as in the file, or start a new run"
            )
        for name, value in moments.items():
            shapes = [tuple(parameter.shape), ()]
            if value is not None and not isinstance(value, int) and tuple(getattr(value, "shape", "?")) not in shapes:
                raise CheckpointError(
                    f"{path}: the optimiser's {name} of tensor {number} does not fit it; resume from another file"
                )


def wind_forward(scheduler, epochs: int) -> None:
    """Step `scheduler`, fresh from the config, over the `epochs` that are trained.

    The steps that an unbroken run makes, so that the same config gives the same rates to the last bit.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(epochs):
            scheduler.step()


def restore_scaler(scaler, saved: dict) -> None:
    """The loss scale of `saved`; a run that had none (fp32, bf16) leaves the scaler at its start."""
    if saved:
        scaler.load_state_dict(saved)


def check_epochs(stage: str, trained: int, wanted: int, path) -> None:
    """Raise ConfigError if the config wants fewer epochs of a stage than are trained."""
    if wanted < trained:
        raise ConfigError(
            f"{path} has {trained} trained epochs of {stage}, and the config wants {wanted}, which no checkpoint has "
            f"any more; set the stage's epochs to {trained} (then the test is left) or more, or start a new run in "
            "another data.save_dir"
        )
