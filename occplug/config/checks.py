"""What values a config may have beyond their types: choices, ranges, and combinations that cannot work.

Choices and ranges are declared beside the defaults (:mod:`occplug.config.ranges`) and enforced here. Each check yields
`(key, complaint)`; :func:`check` turns the first one into an error that names where the key was set. Combinations that
only one method knows are checked by the method itself (`Method.check`).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from typing import Any

from occplug.config.defaults import BACKBONE_FACTS, CHOICES, CORE, IDENTITY_SAMPLERS, MADE_FOR, RANGES
from occplug.config.files import flatten
from occplug.config.ranges import Range, under
from occplug.errors import ConfigError
from occplug.registry import BACKBONES, TRANSFORMS, get, has_texts, names, tower_gives, tower_options
from occplug.utils.logs import warn_once

__all__ = ["check", "declared_keys", "unused_reason"]

log = logging.getLogger(__name__)

# What a tower may give (`occplug.registry.tower_gives`), in words
WORDS = {
    "patches": "embedded patches that can be changed",
    "levels": "outputs of several blocks",
    "tokens": "patch tokens",
    "class scores": "scores of a class token in the last block",
    "cameras": "a class token for the camera embedding",
}
LARGEST = 1e12
MOST_PATCHES = 8192  # of an image; published strides give 128 to 510
NAMED_WEIGHTS = ("openai", "timm", "embedded", "embedded_even")  # some backbone has them; open_clip:TAG besides
# torchreid keys that no command of ours reads, whatever the model.
UNUSED_BY_ALL = {
    "train.start_epoch": "--resume goes on where a run stopped",
    "sampler.train_sampler_t": "target training sets are not supported",
    "video.*": "video data sets are not supported",
    "model.resume": "--resume goes on from data.save_dir",
    "test.evaluate": "occplug test --weights evaluates a checkpoint",
    "data.type": "video data sets are not supported",
    "data.load_train_targets": "target training sets are not supported",
    "data.k_tfm": "an image is augmented once each time it is drawn",
}
NO_COUNTERPART = "the method states itself what trains and how"
# Keys of torchreid's engines that our engine does not read, and why.
UNUSED_BY_METHODS = UNUSED_BY_ALL | {
    "train.fixbase_epoch": NO_COUNTERPART,
    "train.open_layers": NO_COUNTERPART,
    "train.staged_lr": NO_COUNTERPART,
    "train.new_layers": NO_COUNTERPART,
    "train.base_lr_mult": NO_COUNTERPART,
    "model.load_weights": "set backbone.weights for initial weights; occplug test --weights evaluates a checkpoint",
    "test.dist_metric": "the distance is the method's",
    "test.normalize_feature": "the distance is the method's",
}
# ... and those with keys of the method in their place, by the name those keys or their section usually have.
COUNTERPARTS = {
    "train.max_epoch": "epochs",
    "train.lr": "lr",
    "train.weight_decay": "weight_decay",
    "train.optim": "optimizer",
    "train.lr_scheduler": "steps",
    "train.stepsize": "steps",
    "train.gamma": "gamma",
    "sgd.*": "optimizer",
    "rmsprop.*": "optimizer",
    "adam.*": "optimizer",
    "loss.name": "weights",
    "loss.softmax.label_smooth": "label_smoothing",
    "loss.triplet.margin": "margin",
    "loss.triplet.weight_*": "weights",
}
# The other way round: our sections that torchreid's engines and models do not read.
UNUSED_BY_STOCK = UNUSED_BY_ALL | {
    "backbone.*": "a torchreid model is chosen by model.name",
    "prompts.*": "torchreid's models have no texts",
    "amp.dtype": "torchreid's engines train in fp32",
    "run.clip_grad_norm": "torchreid's engines do not clip gradients",
}
UNUSED_WITH_BACKBONE = {"model.pretrained": "set backbone.weights to none for random initial weights"}
UNUSED_WITHOUT_BACKBONE = {"backbone.*": "it does not build on one of our backbones"}


def check(cfg, method, origin: dict[str, str], source: str, is_new: bool = True) -> None:
    """Raise ConfigError for the first value of `cfg` that cannot work.

    Args:
        method: the class of `cfg.model.name` (`occplug.registry.model_class`).
        origin: key -> file or command line that set it.
        source: named for keys that have their default.
        is_new: somebody has written the config, so keys without effect are worth a warning; not what a file of weights
            holds.
    """
    for each in (_choices, _ranges, _sizes, _weights, _data, _unused, _backbone):
        for key, complaint in each(cfg, method):
            raise ConfigError(f"{origin.get(key, source)}: {complaint}")
    if is_new:
        _say_dependent(cfg, method, origin)


def unused_reason(key: str, method) -> str | None:
    """Why `key` means nothing to models of the class `method`; None if it means something."""
    if method.is_stock:
        table = UNUSED_BY_STOCK
    else:
        table = UNUSED_BY_METHODS | (UNUSED_WITH_BACKBONE if method.backbones else UNUSED_WITHOUT_BACKBONE)
        word = next((word for pattern, word in COUNTERPARTS.items() if fnmatch(key, pattern)), None)
        if word is not None:
            keys = [f"method.{key}" for key, _ in flatten(method.defaults) if word in key.split(".")]
            return f"set {' or '.join(keys)}" if keys else NO_COUNTERPART
    return next((reason for pattern, reason in table.items() if fnmatch(key, pattern)), None)


def _declared(method, what: str) -> dict:
    """Dotted key or section -> what the classes that have it in their `what` declare; the core's comes last,
    as its keys may follow a method's (`Method.follows`)."""
    tables = {"method": method}
    tables |= {f"augment.{name}": get(TRANSFORMS, name) for name in names(TRANSFORMS)}
    tables |= {f"backbone.{name}": get(BACKBONES, name) for name in names(BACKBONES)}
    declared: dict[str, Any] = {}
    for section, entry in tables.items():
        declared |= under(section, getattr(entry, what, {}))
    return declared | (CHOICES if what == "choices" else RANGES)


def declared_keys(entry) -> set[str]:
    """Keys and sections that `choices`, `ranges` and `nullable` of a method or transform speak of."""
    return {key for what in ("choices", "ranges", "nullable") for key in getattr(entry, what, ())}


def _below(values: dict[str, object], key: str) -> dict[str, object]:
    """The values of `key` itself, or of the keys in the section of that name."""
    return {name: value for name, value in values.items() if name == key or name.startswith(f"{key}.")}


def _items(value) -> list:
    return value if isinstance(value, list) else [value]


def _choices(cfg, method) -> Iterator[tuple[str, str]]:
    values = dict(flatten(cfg))
    for section, allowed in _declared(method, "choices").items():
        allowed = allowed() if callable(allowed) else allowed
        for key, value in _below(values, section).items():
            for item in _items(value):
                if item not in allowed and item is not None and not _of_family(item, allowed):
                    what = "names" if isinstance(value, list) else "is"
                    yield key, f"{key} {what} {item!r}; there are: {', '.join(allowed)}"


def _of_family(item, allowed) -> bool:
    """Whether `item` is "timm:vit_x" where "timm:NAME" is allowed."""
    return isinstance(item, str) and ":" in item and f"{item.partition(':')[0]}:NAME" in allowed


def _ranges(cfg, method) -> Iterator[tuple[str, str]]:
    values = dict(flatten(cfg))
    for section, declared in _declared(method, "ranges").items():
        allowed = Range.of(declared)
        for key, value in _below(values, section).items():
            if not all(number in allowed for number in _items(value) if type(number) in (int, float)):
                yield key, f"{key} is {value}; it must be {allowed}"


def _sizes(cfg, method) -> Iterator[tuple[str, str]]:
    """Numbers that no key can mean, and that torch or numpy would overflow on in the middle of a training."""
    for key, value in flatten(cfg):
        if any(abs(number) > LARGEST for number in _items(value) if type(number) in (int, float)):
            yield key, f"{key} is {value}; numbers of a config are at most {LARGEST:g}"


def _weights(cfg, method) -> Iterator[tuple[str, str]]:
    for name, stage in cfg.method.items():
        weights = stage.get("weights", {}) if isinstance(stage, dict) else {}
        if isinstance(weights, dict) and weights and not any(weights.values()):
            yield f"method.{name}.weights", f"the weights of method.{name} are all 0, so nothing would be trained"


def _data(cfg, method) -> Iterator[tuple[str, str]]:
    for key in ("sources", "targets"):
        if not cfg.data[key]:
            yield f"data.{key}", f"data.{key} is empty; name at least one data set"
        twice = sorted({name for name in cfg.data[key] if cfg.data[key].count(name) > 1})
        if twice:
            yield (
                f"data.{key}",
                f"data.{key} names {', '.join(twice)} twice; its identities would count twice: name it once",
            )
    if not cfg.data.cache:
        yield "data.cache", "data.cache is empty; it must be none, memory or the name of a folder"
    for key in ("norm_mean", "norm_std"):
        if len(cfg.data[key]) != 3:
            yield f"data.{key}", f"data.{key} has {len(cfg.data[key])} values; it must have 3, for red, green and blue"
    if not method.is_stock and cfg.data.type != "image":
        yield "data.type", f"data.type is {cfg.data.type!r}, but {cfg.model.name} takes images"
    low_high = cfg.synthocc.ratio
    if len(low_high) != 2 or low_high[0] >= low_high[1]:
        yield "synthocc.ratio", f"synthocc.ratio is {low_high}; it must be two shares, the smaller one first"
    size, instances = cfg.train.batch_size, cfg.sampler.num_instances
    if cfg.sampler.train_sampler in IDENTITY_SAMPLERS and size % instances:
        needs = f"the sampler {cfg.sampler.train_sampler!r} needs a multiple of sampler.num_instances = {instances}"
        yield "train.batch_size", f"train.batch_size is {size}; {needs}"


def _unused(cfg, method) -> Iterator[tuple[str, str]]:
    defaults = dict(flatten(CORE))
    for key, value in flatten(cfg):
        reason = unused_reason(key, method)
        if reason and value != defaults[key]:
            yield key, f"{key} is {value!r}, but {cfg.model.name} does not use it: {reason}"


# Keys of torchreid's engines that count only together with another key's value, and that value.
_DEPENDENT = {
    "sgd.momentum": ("train.optim", ("sgd", "rmsprop")),
    "sgd.*": ("train.optim", ("sgd",)),
    "rmsprop.*": ("train.optim", ("rmsprop",)),
    "adam.*": ("train.optim", ("adam", "amsgrad", "radam")),
    "train.stepsize": ("train.lr_scheduler", ("single_step", "multi_step")),
    "train.gamma": ("train.lr_scheduler", ("single_step", "multi_step")),
    "train.new_layers": ("train.staged_lr", (True,)),
    "train.base_lr_mult": ("train.staged_lr", (True,)),
    "loss.triplet.*": ("loss.name", ("triplet",)),
}


# Keys of all models that count only together with another key's value, that value, and in words.
_SWITCHED: dict[str, tuple[str, Callable[[Any], bool], str]] = {
    "masks.noise_strength": ("masks.noise", lambda noise: noise != "none", "eroded, shifted or swapped"),
    "backbone.sie_coefficient": ("backbone.sie_camera", bool, "True"),
    "backbone.semantic_weight": ("backbone.name", lambda name: name.startswith("solider_"), "a tower of SOLIDER"),
    "sampler.num_cams": ("sampler.train_sampler", "RandomDomainSampler".__eq__, "RandomDomainSampler"),
    "sampler.num_datasets": ("sampler.train_sampler", "RandomDatasetSampler".__eq__, "RandomDatasetSampler"),
}
# Keys that count for these data sets alone.
_OF_SETS = {
    "synthocc.*": "synthocc",
    "market1501.*": "market1501",
    "cuhk03.labeled_images": "cuhk03",
    "cuhk03.classic_split": "cuhk03",
    "data.pattern": "folder:DIR",
}
# Keys of torchreid's that nothing here reads; its files often carry them.
_UNREAD = {
    "train.print_freq": "the bar shows each step, and the log each epoch",
    "test.ranks": "results list Rank-1, 5, 10 and 20",
}


def _say_dependent(cfg, method, origin: dict[str, str]) -> None:
    """Warn of keys that were set to no effect: another key switches them off, or nothing reads them.

    Args:
        origin: as of :func:`check`; keys that have their default are not in it.
    """
    values = dict(flatten(cfg))
    for key in origin:
        made_for = [table[key] for table in MADE_FOR.values() if key in table]  # of one tower, in a base of several
        if key in values and values[key] not in [_default(key, method), *made_for]:
            for reason in _without_effect(key, values, cfg, method):
                warn_once(log, f"{origin[key]}: {key} is {values[key]!r}, which does nothing {reason}")


def _default(key: str, method):
    """What `key` is if nobody sets it; None for those of a part that the config names."""
    *parents, last = key.split(".")
    entries = {"method": method.defaults}
    for section, registry in (("augment", TRANSFORMS), ("backbone", BACKBONES)):
        known = parents[1] if len(parents) > 1 and parents[0] == section else ""
        if known in names(registry):
            entries[f"{section}.{known}"] = getattr(get(registry, known), "defaults", {})
    owner = max((name for name in entries if f"{key}.".startswith(f"{name}.")), key=len, default="")
    tree = {**dict(flatten(CORE)), **{f"{owner}.{k}": v for k, v in flatten(entries.get(owner, {}))}}
    return tree.get(key)


def _without_effect(key: str, values: dict[str, Any], cfg, method) -> Iterator[str]:
    """Why `key` has no effect in `cfg`; nothing if it has."""
    if method.is_stock:
        other, wanted = next((rule for pattern, rule in _DEPENDENT.items() if fnmatch(key, pattern)), ("", ()))
        if other and values[other] not in wanted:
            yield f"while {other} is {values[other]!r}; it needs {' or '.join(map(str, wanted))}"
    if key in _SWITCHED:
        other, holds, needs = _SWITCHED[key]
        if not holds(values[other]):
            yield f"while {other} is {values[other]!r}; it needs {needs}"
    section, _, rest = key.partition(".")
    part = rest.partition(".")[0]
    if section == "augment" and part not in values["data.transforms"]:
        yield f"while data.transforms is {values['data.transforms']!r}; it needs {part} there"
    if section == "backbone" and isinstance(cfg.backbone[part], dict) and values["backbone.name"] != part:
        yield f"while backbone.name is {values['backbone.name']!r}; it needs {part}"
    if section == "prompts" and method.backbones:
        if has_texts(values["backbone.name"]):
            yield f"with {values['backbone.name']}, which has texts of its own"
        elif method.prompt_keys and rest not in method.prompt_keys(cfg):
            yield f"for {cfg.model.name} with these settings, which does not read it"
    if section == "masks" and "masks" not in method.extras(cfg):
        yield f"for {cfg.model.name} with these settings, which reads no part masks"
    sets = [*values["data.sources"], *values["data.targets"]]
    named = next((name for pattern, name in _OF_SETS.items() if fnmatch(key, pattern)), "")
    if named and not any(fnmatch(name, named.replace("DIR", "*")) for name in sets):
        yield f"for the data sets {', '.join(sets)}; it is of {named}"
    if key in _UNREAD:
        yield f"in occplug: {_UNREAD[key]}"


def _backbone(cfg, method) -> Iterator[tuple[str, str]]:
    b = cfg.backbone
    if not method.backbones:
        return
    name = b.get(b.name, {}).get("clip", b.name)  # the CLIP tower, of a hybrid the one inside
    yield from _activation("backbone", b, name)
    if not has_texts(b.name) and method.prompt_keys and "activation" in method.prompt_keys(cfg):
        yield from _activation("prompts", cfg.prompts, cfg.prompts.clip)
    gives = tower_gives(name)
    if gives is not None and method.needs is not None:
        yield from _given(cfg, method, name, gives)
        yield from _tower(cfg, name)
        return
    if cfg.prompts.source == "joint":
        yield "prompts.source", f"prompts.source is 'joint', but {b.name} has texts of its own; leave it out"
    # a backbone of a user's says which listed one it stands for
    is_listed = {name, getattr(get(BACKBONES, b.name), "like", name)} & set(method.backbones.values())
    if name in BACKBONE_FACTS and (is_listed or name.startswith("clip_")):
        yield from _tower(cfg, name)
    elif not is_listed:
        known = ", ".join(method.backbones.values())
        yield "backbone.name", f"backbone.name is {b.name!r}, and {cfg.model.name} works on {known}"
    if name != b.name:
        yield from _hybrid(cfg, name)


def _activation(section: str, options, name: str) -> Iterator[tuple[str, str]]:
    """A choice of the activation where there is none: `options` is the node `section`, `name` its backbone."""
    key, asked, source = f"{section}.activation", options.activation, options.weights
    if asked and "activation" not in tower_options(name).values():
        yield key, f"{key} is {asked!r}, but {name} has no choice of it; leave it out"
    elif asked and (source in (*NAMED_WEIGHTS, "none") or source.startswith("open_clip:")):
        yield key, f"{key} is {asked!r}, but {source!r} tells its own; leave it out"


def _given(cfg, method, name: str, gives: frozenset[str]) -> Iterator[tuple[str, str]]:
    """What the method needs of its tower and `name` does not give."""
    if cfg.prompts.source == "joint" and "text" in gives:
        yield "prompts.source", f"prompts.source is 'joint', but {name} has texts of its own; leave it out"
    needs = method.needs(cfg) | ({"cameras": "backbone.sie_camera"} if cfg.backbone.sie_camera else {})
    for what, key in needs.items():
        if what not in gives:
            named = f"{key} is {_value(cfg, key)!r}, which needs {WORDS[what]}"
            yield key, f"{named}; {name} has none. It gives: {', '.join(sorted(gives)) or 'features alone'}"


def _value(cfg, key: str):
    return functools.reduce(lambda node, word: node[word], key.split("."), cfg)


def _tower(cfg, name: str) -> Iterator[tuple[str, str]]:
    b = cfg.backbone
    if b.drop_path is not None and "drop_path" not in tower_options(name).values():
        yield "backbone.drop_path", f"backbone.drop_path is {b.drop_path}, but {name} has none; set it to null"
    if name not in BACKBONE_FACTS:
        return
    patch, own_weights = BACKBONE_FACTS[name]
    for key in ("height", "width"):
        if cfg.data[key] < patch:
            yield f"data.{key}", f"data.{key} is {cfg.data[key]}, smaller than a patch of {name} ({patch} pixels)"
    if (name == "clip_rn50" or name.startswith("solider_")) and b.stride != 16:
        yield "backbone.stride", f"backbone.stride is {b.stride}, but {name} has a fixed stride of 16"
    if not 1 <= b.stride <= patch:
        yield (
            "backbone.stride",
            f"backbone.stride is {b.stride}; for {name} it must be from 1 to {patch}, its patch size",
        )
    else:
        height, width = ((cfg.data[side] - patch) // b.stride + 1 for side in ("height", "width"))
        if height * width > MOST_PATCHES:
            yield (
                "backbone.stride",
                f"backbone.stride is {b.stride}, which cuts {cfg.data.height} x {cfg.data.width} pixels into "
                f"{height * width:,} patches, more than the limit of {MOST_PATCHES:,}, each of which attends to all",
            )
    if name == "clip_rn50" and b.sie_camera:
        yield "backbone.sie_camera", "backbone.sie_camera is True, but clip_rn50 has no class token for it"
    own = {own_weights, "embedded_even"} if name == "clip_vit_tiny" else {own_weights}
    if b.weights in NAMED_WEIGHTS and b.weights not in own:
        complaint = f"backbone.weights is {b.weights!r}, which {name} does not have"
        yield "backbone.weights", f"{complaint}; use {own_weights!r}, 'none' or a file"


def _hybrid(cfg, clip: str) -> Iterator[tuple[str, str]]:
    """What goes beside a CLIP tower is fed from the constants that tower was made for, and loaded after it."""
    constants: dict[str, Any] = {f"data.{key}": CORE["data"][key] for key in ("norm_mean", "norm_std")} | MADE_FOR[clip]
    for key in ("norm_mean", "norm_std"):
        wanted, given = constants[f"data.{key}"], cfg.data[key]
        if given != wanted:
            yield f"data.{key}", f"data.{key} is {given}; {cfg.backbone.name} with {clip} reads images in {wanted}"
    beside = f"backbone.{cfg.backbone.name}.weights"
    is_file = cfg.backbone[cfg.backbone.name].weights not in ("none", "embedded", "released")
    if cfg.backbone.weights == "none" and is_file:
        yield beside, f"{beside} is a file, but backbone.weights is 'none': all weights stay random; set it too"
