"""What has changed between the config that a checkpoint was written with and the one a run goes on with."""

from __future__ import annotations

from fnmatch import fnmatch

import yaml
from yacs.config import CfgNode

from occplug.config.files import current_key, flatten
from occplug.errors import ConfigError
from occplug.utils.texts import parse_yaml_text

__all__ = ["changed_keys", "check_changes", "is_of_training_alone", "saved_values"]

# Keys that say where files are and how the work is done; no figure depends on them.
WITHOUT_EFFECT = (
    "custom_imports", "data.root", "data.save_dir", "data.workers", "data.cache", "masks.root", "masks.cache",
    "run.logger", "run.page", "run.resume", "run.save_every", "run.threads", "run.deterministic", "test.batch_size",
    "test.visrank*", "train.micro_batch", "train.print_freq", "use_gpu",
)  # fmt: skip
# Keys that only the test reads, so that they may change when nothing is left to train.
OF_THE_TEST = (
    "eval.*", "test.*", "data.targets", "cuhk03.use_metric_cuhk03", "input.test_interpolation",
    "market1501.use_500k_distractors",
)  # fmt: skip
# Keys that no test reads, and `data.targets`, which its results name.
OF_TRAINING = (
    "train.*", "sgd.*", "adam.*", "rmsprop.*", "loss.*", "sampler.*", "augment.*", "data.transforms", "data.sources",
    "data.combineall", "ensemble.held_out", "masks.*", "input.train_interpolation", "amp.*", "run.*",
    "model.pretrained", "data.targets", "model.load_weights", "backbone.weights", "backbone.*.weights",
    "method.train.*", "method.stage*", "method.start", "method.earlier", "method.*.epochs", "method.*.lr",
)  # fmt: skip
# Keys that say what is trained on which images in which order: two values in one run are neither run.
FIXED = (
    "model.name", "backbone.name", "data.sources", "data.combineall", "data.split_id", "data.pattern",
    "ensemble.held_out", "train.seed", "cuhk03.labeled_images", "cuhk03.classic_split", "synthocc.*",
)  # fmt: skip


def changed_keys(before: str, cfg: CfgNode) -> dict[str, tuple]:
    """Key -> (value before, value in `cfg`) of the keys that have another value now.

    Args:
        before: the earlier config as `resolved_yaml` writes it.

    Keys that only one of the two has, since they came or went with another version, are left out, as are keys on
    which no figure depends.
    """
    then, now = saved_values(before), dict(flatten(cfg))
    return {
        key: (then[key], value)
        for key, value in now.items()
        if key in then and then[key] != value and not _is_of(key, WITHOUT_EFFECT)
    }


def is_of_training_alone(key: str) -> bool:
    """Whether a test has no use for `key`, though a training has."""
    return _is_of(key, OF_TRAINING)


def saved_values(text: str) -> dict[str, object]:
    """Dotted keys and values of a config as `resolved_yaml` wrote it, also of an earlier version's.

    Raises ConfigError if it is none.
    """
    try:
        tree = parse_yaml_text(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"the config that a checkpoint holds is not yaml: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"the config that a checkpoint holds is {type(tree).__name__}, expected keys with values")
    return {current_key(key): value for key, value in flatten(tree)}


def check_changes(changes: dict[str, tuple], finished: list[str], is_over: bool, where: str) -> None:
    """Raise ConfigError for a change that cannot be made in the middle of a run; names the key and both values.

    Args:
        changes: of :func:`changed_keys`.
        finished: names of the stages that are trained; their keys under `method.` have had their effect.
        is_over: nothing is left to train.
        where: the checkpoint, for the message.
    """
    for key, (then, now) in changes.items():
        reason = None
        if _is_of(key, FIXED):
            reason = "images and their order would be of neither run"
        elif any(key.startswith(f"method.{stage}.") for stage in finished):
            reason = f"the stage {key.split('.')[1]} is trained already"
        elif is_over and not _is_of(key, OF_THE_TEST):
            reason = "nothing is left to train"
        if reason:
            raise ConfigError(
                f"{key} is {now!r}, and {where} was trained with {then!r}: {reason}. Set it back to go on, or start a "
                "run of its own in another data.save_dir"
            )


def _is_of(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(key, pattern) for pattern in patterns)
