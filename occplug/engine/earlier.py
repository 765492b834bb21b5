"""Stages that an earlier run has trained, taken over instead of trained again."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from occplug.data.versions import other_versions
from occplug.engine.checkpoint import check_same_meaning, load_checkpoint
from occplug.errors import CheckpointError, ConfigError
from occplug.method import Method
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
    """A checkpoint with trained stages.

    Args:
        path: written by `occplug train` at the end of a stage, or by `occplug convert` of an official one. That does
            not say on which identities and files it was trained, so neither is checked.

    Raises:
        CheckpointError: missing, unreadable, or not ours.
    """

    def __init__(self, path):
        self.path = user_path(path)
        self.state = load_checkpoint(self.path)

    def load(self, module: Method, parts: dict[str, Sequence[str]], bound_to: dict[str, str]) -> None:
        """Copy into `module` what each stage has trained.

        Args:
            parts: stage name -> prefixes of the parameters and buffers that it has trained for later stages.
            bound_to: of `Method.bound_to`, what concerns these parts.

        Raises:
            CheckpointError: a stage is not done in the file, its tensors are missing or of another shape, or they were
                learnt in another text or on other blocks.
        """
        check_same_meaning(self.state, bound_to, self.path)
        done = [record["name"] for record in self.state.get("records", [])]
        if "stage" in self.state and "optimizer" not in self.state:  # written at its end, before that was on record
            done.append(self.state["stage"])
        weights, own = with_current_names(self.state["state_dict"], module), module.state_dict()
        for stage, prefixes in parts.items():
            if stage not in done:
                raise CheckpointError(
                    f"{self.path}: the stage {stage!r} is not finished in it (finished: {', '.join(done) or 'none'}); "
                    f"give the checkpoints/{stage}.pth of a run with that stage, which `occplug train` makes"
                )
            names = [name for name in own if name.startswith(tuple(prefixes))]
            self._check_shapes(stage, names, own, weights)
            module.load_state_dict({name: weights[name] for name in names}, strict=False)
            log.info("%s: %d tensors of the stage %s taken over", self.path, len(names), stage)

    def _check_shapes(self, stage: str, names: list[str], own: Mapping, weights: Mapping) -> None:
        missing = [name for name in names if name not in weights]
        wrong = [
            f"{name} is {list(weights[name].shape)} in the file and {list(own[name].shape)} here"
            for name in names
            if name in weights and weights[name].shape != own[name].shape
        ]
        if missing or wrong:
            text = " ".join(wrong)
            cause = "it belongs to another backbone or configuration"
            if "pos_embed" in text or "positional_embedding" in text:
                cause = "it was trained on another grid of patches (data.height, data.width or stride)"
            elif "classifier" in text or "context" in text:
                cause = "it was trained with another number of identities (another data set?)"
            lines = [f"{self.path} does not fit the stage {stage!r}: {cause}", *wrong[:10]]
            raise CheckpointError("\n  ".join(lines + ([f"missing: {', '.join(missing[:10])}"] if missing else [])))

    def check_data(self, data) -> None:
        """Raise CheckpointError if the file was trained on other identities or other files than `data` has."""
        if "pids" not in self.state:
            log.warning("%s does not say on which data it was trained; it must be this run's training data", self.path)
            return
        now = data.summary()
        names = [name for name in data.sources if name not in self.state["data"]]
        changed = [name for name in other_versions(self.state["data"], now) if name in data.sources]
        if names or changed or list(self.state["pids"]) != list(data.pids):
            trained = ", ".join(self.state["data"])
            what = f"other files of {', '.join(changed)}" if changed else f"another data set ({trained})"
            raise CheckpointError(
                f"{self.path} was trained on {what}, and this run trains on {', '.join(data.sources)}; its classes "
                "would be other persons. Train its stages on this data: leave method.start and method.earlier empty"
            )
