"""Stages that an earlier run has trained, taken over instead of trained again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch

from occplug.config.changes import changed_keys
from occplug.data.versions import other_versions
from occplug.engine.checkpoint import check_same_meaning, load_checkpoint
from occplug.errors import CheckpointError, ConfigError
from occplug.method import Method, Stage
from occplug.utils.files import user_path
from occplug.utils.keys import with_current_names

__all__ = ["EarlierStages", "check_start"]

log = logging.getLogger(__name__)


def check_start(start: str, earlier: str, stages: Sequence[str]) -> None:
    """Check `method.start` and `method.earlier` against the names of a method's stages.

    Raises:
        ConfigError: no stage of that name, or earlier stages are left out and no checkpoint has them; says which
            command makes one.
    """
    if start and start not in stages:
        raise ConfigError(f"method.start is {start!r}; this configuration has the stages {', '.join(stages)}")
    skipped = stages[: stages.index(start)] if start else ()
    if earlier and not skipped:
        raise ConfigError(
            f"method.earlier is {earlier!r}, but no stage is left to take from it: set method.start to the first stage "
            f"to train ({', '.join(stages[1:]) or 'this configuration has one stage alone'})"
        )
    if skipped and not earlier:
        raise ConfigError(
            f"method.start is {start!r}, but the results of {' and '.join(skipped)} are not given: make them with "
            f"`occplug train --config-file CONFIG` (method.start empty) and set method.earlier to the "
            f"checkpoints/{skipped[-1]}.pth of that run"
        )


class EarlierStages:
    """The stages of a method that a run takes over from a checkpoint: those before `method.start`, if it is set.

    Args:
        cfg: resolved config; reads `method.start` and `method.earlier`, a checkpoint written by `occplug train` at the
            end of a stage, or by `occplug convert` of an official one. That does not say on which identities and files
            it was trained, so neither is checked.
        stages: names of all stages, in order.
        leaves: stage -> what begin the names of the parameters and buffers that it trains for later stages.
    """

    def __init__(self, cfg, stages: Sequence[str], leaves: Mapping[str, Sequence[str]]):
        start = cfg.method.start
        self.cfg, self.stages, self.leaves = cfg, list(stages), leaves
        self.skipped = self.stages[: self.stages.index(start)] if start else []
        self.path = user_path(cfg.method.earlier)
        self.trained_on: dict | None = None  # what the checkpoint says of its data, once read

    def load(self, module: Method, bound_to: dict[str, str]) -> None:
        """Copy into `module` what each stage that is left out has trained, if there is one.

        Keys that the checkpoint was trained with and this run has otherwise are named in the log.

        Args:
            bound_to: of `Method.bound_to`, what concerns these stages.

        Raises:
            CheckpointError: the file is missing, unreadable or not ours, a stage is not done in it, its tensors are
                missing or of another shape, or they were learnt in another text or on other blocks.
        """
        if not self.skipped:
            return
        state = load_checkpoint(self.path)
        check_same_meaning(state, bound_to, self.path)
        done = [record["name"] for record in state.get("records", [])]
        if "stage" in state and "optimizer" not in state:  # written at its end, before that was on record
            done.append(state["stage"])
        weights, here = with_current_names(state["state_dict"], module), module.state_dict()
        for stage in self.skipped:
            if stage not in done:
                raise CheckpointError(
                    f"{self.path}: the stage {stage!r} is not finished in it (finished: {', '.join(done) or 'none'}); "
                    f"give the checkpoints/{stage}.pth of a run with that stage, which `occplug train` makes"
                )
            names = [name for name in here if name.startswith(tuple(self.leaves[stage]))]
            self._check_shapes(stage, {name: here[name] for name in names}, weights, module)
            module.load_state_dict({name: weights[name] for name in names}, strict=False)
            log.info("%s: %d tensors of the stage %s taken over", self.path, len(names), stage)
        self._name_changes(state.get("config"))
        self.trained_on = {key: state[key] for key in ("pids", "data") if key in state}

    def _check_shapes(self, stage: str, here: Mapping, weights: Mapping, module: Method) -> None:
        missing = [name for name in here if name not in weights]
        reshaped = [name for name in here if name in weights and weights[name].shape != here[name].shape]
        if missing or reshaped:
            cause = module.explain_mismatch(missing, reshaped)
            lines = [f"{self.path} does not fit the stage {stage!r}: {cause}"]
            lines += [
                f"{name} is {list(weights[name].shape)} in the file and {list(here[name].shape)} here"
                for name in reshaped[:10]
            ]
            raise CheckpointError("\n  ".join(lines + ([f"missing: {', '.join(missing[:10])}"] if missing else [])))

    def _name_changes(self, before: str | None) -> None:
        """Log the keys that had another value when the stages were trained, but for those of later stages."""
        later = [f"method.{name}." for name in self.stages if name not in self.skipped]
        ours = ("method.start", "method.earlier", *later)
        changes = changed_keys(before, self.cfg) if before else {}
        told = [f"{key} {then!r}, here {now!r}" for key, (then, now) in changes.items() if not key.startswith(ours)]
        if told:
            log.warning(
                "%s: %s had other settings, and what it trained is taken as it is: %s",
                self.path, " and ".join(self.skipped), "; ".join(told),
            )  # fmt: skip

    def left_to_train(self, stages: Sequence[Stage]) -> list[Stage]:
        """Of all `stages` those from `method.start` on; the first checks that what is taken over fits its data."""
        stages = [stage for stage in stages if stage.name not in self.skipped]
        prepare = stages[0].prepare

        def checked(data, device: torch.device) -> None:
            if self.trained_on is not None:
                self._check_data(data, self.trained_on)
            prepare(data, device)

        stages[0].prepare = checked
        return stages

    def _check_data(self, data, before: dict) -> None:
        """Raise CheckpointError if the file was trained on other identities or other files than `data` has."""
        if "pids" not in before:
            log.warning("%s does not say on which data it was trained; it must be this run's training data", self.path)
            return
        now = data.summary()
        names = [name for name in data.sources if name not in before["data"]]
        changed = [name for name in other_versions(before["data"], now) if name in data.sources]
        if names or changed or list(before["pids"]) != list(data.pids):
            trained = ", ".join(before["data"])
            what = f"other files of {', '.join(changed)}" if changed else f"another data set ({trained})"
            raise CheckpointError(
                f"{self.path} was trained on {what}, and this run trains on {', '.join(data.sources)}; its classes "
                "would be other persons. Train its stages on this data: leave method.start and method.earlier empty"
            )
