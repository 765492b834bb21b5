"""Configs: yaml files over the defaults of `occplug.config.defaults`, checked by `occplug.config.checks`.

A file may name one or more files to start from as `_base_` (paths relative to itself, later ones win, the file itself
wins over all). Keys may be nested or dotted. The result is frozen, and what `resolved_yaml` writes of it loads to an
equal one.
"""

from __future__ import annotations

import ast
import copy
import difflib
import functools
import logging
import math
import os
from dataclasses import replace
from typing import Any

import yaml
from yacs.config import CfgNode

from occplug.config.checks import check, unused_reason
from occplug.config.custom import KEY, import_custom, placed
from occplug.config.defaults import CORE, DEFAULT_MODEL, MADE_FOR, NULLABLE, OBSOLETE
from occplug.config.files import (
    COMMAND_LINE,
    END,
    WHOLE,
    Setting,
    current_key,
    current_setting,
    flatten,
    mapping_of,
    parse_options,
    read_settings,
)
from occplug.config.places import find_config
from occplug.errors import ConfigError
from occplug.registry import BACKBONES, METHODS, TRANSFORMS, get, model_class, names, part_node
from occplug.utils.files import user_path, write_atomically
from occplug.utils.texts import parse_yaml_text

__all__ = ["default_config", "load_config", "resolved_yaml", "save_config"]

log = logging.getLogger(__name__)
EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    list: "a list such as [a, b]",
}


def load_config(file=None, opts: list | None = None, *, text: str | None = None) -> CfgNode:
    """The resolved config of the yaml `file`, or of yaml `text`.

    Args:
        file: path, or the name of one of occplug's (`clip_reid_synthocc`, see `find_config`); its keys and those of
            its `_base_` files go over the defaults.
        opts: go over the file: `[key, value, key, value, ...]` or `["key=value", ...]`, values as text or as objects,
            or `Setting`s, which errors name by their own origin.
            With another `model.name` than the file's, the file's keys that this model does not have are left out.
        text: whole yaml without `_base_`, e.g. what `resolved_yaml` returned; errors call it by `file`, if given too.

    Raises:
        ConfigError: file missing or not yaml, a circle of `_base_`; unknown key, wrong type, unsupported value, or a
            combination that cannot work. The message names the file (or the command line), the key and the cure.
    """
    if text is not None:
        name = str(file or "config text")
        return _resolve(_settings_of_text(text, name), parse_options(opts or []), name, is_new=False)
    if file is None:
        raise TypeError("load_config takes a file or text=")
    path = find_config(file)
    return _resolve(list(read_settings(path)), parse_options(opts or []), str(path))


def _settings_of_text(text: str, name: str) -> list[Setting]:
    content = mapping_of(text, name)
    if "_base_" in content:
        raise ConfigError(f"{name}: text has no folder, so it cannot have a _base_; give a resolved config")
    return [Setting(current_key(key), value, name) for key, value in flatten(content)]


def default_config(model_name="clip_reid", backbone_name: str | None = None, opts: list | None = None) -> CfgNode:
    """The config of `model_name` without a file, with the image size and constants that its backbone was made for.

    Args:
        backbone_name: one of BACKBONES; None for the first that the method names, if it builds on backbones at all.

    Raises:
        ConfigError: as `load_config`.
    """
    chosen: dict[str, Any] = {"model.name": model_name}
    if backbone_name is None:
        backbone_name = next(iter(model_class(model_name).backbones.values()), None)
    if backbone_name is not None:
        chosen |= {"backbone.name": backbone_name, **made_for(backbone_name)}
    settings = [Setting(key, value, "default_config") for key, value in chosen.items()]
    return _resolve(settings, parse_options(opts or []), "default_config")


def made_for(backbone: str) -> dict[str, Any]:
    """The keys that a config without a file sets with a backbone; an entry of a family states them as `made_for`."""
    return MADE_FOR.get(backbone) or getattr(get(BACKBONES, backbone), "made_for", {})


# ---------------------------------------------------------------------- merging


def _resolve(settings: list[Setting], options: list[Setting], source: str, is_new: bool = True) -> CfgNode:
    """The checked, frozen config of the settings `settings` of a file and the `options` over them; `is_new` as of
    `check`."""
    settings, options = (list(map(current_setting, given)) for given in (settings, options))
    settings, options = _with_custom_imports(settings, options)
    chosen = _model_name([*settings, *options], source)
    method = model_class(chosen)
    if chosen != _model_name(settings, source):
        settings = _without_other_models_keys(settings, chosen, method)
    tree, nullable = _default_tree(method, [*settings, *options])
    values = _values([*settings, *options], tree, nullable)
    for key, (value, _) in values.items():
        *parents, last = key.split(".")
        functools.reduce(dict.__getitem__, parents, tree)[last] = value
    for key, leader in method.follows.items():
        if key not in values:
            section, _, last = key.rpartition(".")
            tree[section][last] = tree["method"][leader]
    cfg = CfgNode(tree)
    cfg.freeze()
    check(cfg, method, {key: where for key, (_, where) in values.items()}, source, is_new)
    method.check(cfg)
    return cfg


def _with_custom_imports(own: list[Setting], options: list[Setting]) -> tuple[list[Setting], list[Setting]]:
    """The settings with the files of `custom_imports` as absolute paths, after importing those that count."""
    last = None
    for settings in (own, options):
        for place, setting in enumerate(settings):
            if setting.key == KEY:
                value = _parse_text(setting.value) if isinstance(setting.value, str) else setting.value
                last = settings[place] = replace(setting, value=placed(value, setting.where))
    if last is not None:
        import_custom(last.value, last.where)
    return own, options


def _model_name(settings: list[Setting], source: str) -> str:
    """The last `model.name`. Raises ConfigError if neither a method nor a torchreid model has it."""
    default = Setting("model.name", DEFAULT_MODEL, source)
    setting = [default, *(s for s in settings if s.key == default.key)][-1]
    name = _convert_setting(setting, DEFAULT_MODEL, False)
    methods = names(METHODS)
    if name not in methods and name not in (known := [*methods, *_stock_model_names()]):
        raise ConfigError(
            f"{setting.where}: model.name is {name!r}, neither a method nor a torchreid model; the nearest is "
            f"{_nearest(name, known)!r}, the methods are {', '.join(methods)}"
        )
    return name


def _stock_model_names() -> list[str]:
    from occplug.torchreid_host import stock_model_names  # imports torchreid, which takes seconds

    return list(stock_model_names())


def _without_other_models_keys(settings: list[Setting], model: str, method) -> list[Setting]:
    """`settings` of a file written for another model, less those that mean nothing for `model` (logged)."""
    left_out = [s for s in settings if s.key.startswith("method.") or unused_reason(s.key, method)]
    if left_out:
        keys = ", ".join(dict.fromkeys(s.key for s in left_out))
        file = left_out[-1].where
        log.warning("model.name is changed to %s, so these keys of %s keep their defaults: %s", model, file, keys)
    return [s for s in settings if s not in left_out]


def _default_tree(method, settings: list[Setting]) -> tuple[dict, frozenset[str]]:
    """A fresh tree of all keys, and the dotted keys that may be null although their default is not.

    Methods, transforms and backbones state the latter as a class attribute `nullable`, keys relative to their node.
    A part that `settings` name has the arguments of that part as its keys (`Method.parts`).
    """
    tree = copy.deepcopy(CORE)
    nodes = {f"augment.{name}": get(TRANSFORMS, name) for name in names(TRANSFORMS)}
    nodes = {prefix: entry for prefix, entry in nodes.items() if getattr(entry, "defaults", None)}
    tree["augment"] = {prefix.split(".")[1]: copy.deepcopy(entry.defaults) for prefix, entry in nodes.items()}
    for name in names(BACKBONES):
        defaults = getattr(get(BACKBONES, name), "defaults", None)
        if defaults:
            nodes[f"backbone.{name}"] = get(BACKBONES, name)
            tree["backbone"][name] = copy.deepcopy(defaults)
    nodes["method"] = method
    tree["method"] = copy.deepcopy(method.defaults)
    for key, registry in method.parts.items():
        _fill_part(tree["method"], key, registry, settings)
    nullable = {f"{prefix}.{key}" for prefix, entry in nodes.items() for key in getattr(entry, "nullable", ())}
    return tree, frozenset(nullable | set(NULLABLE))


def _fill_part(tree: dict, key: str, registry, settings: list[Setting]) -> None:
    """Put the keys of the part that `method.<key>.type` names into `tree`."""
    *parents, last = key.split(".")
    section = functools.reduce(dict.__getitem__, parents, tree)
    chosen = [s for s in settings if s.key == f"method.{key}.type"]
    if not chosen or chosen[-1].value == section[last]["type"]:
        return
    try:
        section[last] = part_node(registry, chosen[-1].value, section)
    except ConfigError as error:
        raise ConfigError(f"{chosen[-1].where}: method.{key}.type: {error}") from error


def _values(settings: list[Setting], tree: dict, nullable: frozenset[str]) -> dict[str, tuple[object, str]]:
    """Key -> (value in the default's type, where it was set last), for every key set. Raises ConfigError."""
    defaults, sections = dict(flatten(tree)), _sections(tree)
    values = {}
    for setting in settings:
        key = setting.key
        if key in OBSOLETE:
            log.warning("%s: %s is obsolete and has no effect", setting.where, key)
        elif key in sections:
            if setting.value is not None and setting.value != {}:  # `section:` with nothing below it is empty
                inside = ", ".join(sections[key])
                raise ConfigError(f"{setting.where}: {key} is a section; set one of its keys: {inside}")
        elif key in defaults:
            values[key] = _convert_setting(setting, defaults[key], key in nullable), setting.where
        elif key.startswith("method.") and not tree["method"]:
            raise ConfigError(f"{setting.where}: there is no key {key!r}: a torchreid model has no method keys")
        else:
            nearest = _nearest(key, [*defaults, *sections])
            raise ConfigError(f"{setting.where}: there is no key {key!r}; the nearest is {nearest!r}")
    return values


def _sections(tree: dict, prefix: str = "") -> dict[str, list[str]]:
    """Dotted name of every inner node -> its keys."""
    sections = {}
    for key, node in tree.items():
        if isinstance(node, dict):
            sections[f"{prefix}{key}"] = list(node)
            sections |= _sections(node, f"{prefix}{key}.")
    return sections


def _convert_setting(setting: Setting, default, is_nullable: bool):
    value = setting.value
    if setting.where == COMMAND_LINE and isinstance(value, str) and not isinstance(default, str):
        value = _parse_text(value)
    if value is None and is_nullable:
        return None
    try:
        if default is None and is_nullable:  # such keys are numbers, also where they are null at first
            return value if type(value) is int else _finite(value)
        return _convert(value, default)
    except TypeError as error:
        given = "null" if value is None else f"{value!r} ({type(value).__name__})"
        raise ConfigError(f"{setting.where}: {setting.key} is {given}, expected {error}") from None


def _nearest(name: str, known: list[str]) -> str:
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def _parse_text(text: str):
    """`text` as yaml reads it, or as a Python literal (`None`, tuples), or as it is."""
    try:
        value = parse_yaml_text(text)
    except (yaml.YAMLError, ValueError):
        return text
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return value
    return value


def _convert(value, default):
    """`value` in the type of `default`; lists element by element. Raises TypeError with what was expected."""
    if default is None:
        return value
    kind = type(default)
    if kind is list and isinstance(value, list | tuple):
        kinds = {type(element) for element in default}
        return [_convert(element, default[0]) if len(kinds) == 1 else element for element in value]
    if kind is float:
        return _finite(value)
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if kind is str and isinstance(value, str) and value.startswith("~"):  # no text of a config begins so but a path
        return str(user_path(value))
    if type(value) is not kind:
        raise TypeError(EXPECTED[kind])
    return value


def _finite(value) -> float:
    # yaml 1.1 reads 1e-4 (without a dot) as text
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise TypeError(EXPECTED[float])
    return number


# ---------------------------------------------------------------------- writing


class _Dumper(yaml.SafeDumper):
    """yaml's safe dumper, with lists on one line."""


def _one_line(dumper: yaml.SafeDumper, value: list):
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


_Dumper.add_representer(list, _one_line)


def resolved_yaml(cfg: CfgNode) -> str:
    """All keys of `cfg` as yaml text; saved to a file, `load_config` reads an equal config from it."""
    layout: dict[str, Any] = {"sort_keys": False, "default_flow_style": False, "allow_unicode": True, "width": 120}
    return yaml.dump(_plain(cfg), Dumper=_Dumper, **layout)


def _plain(node) -> dict:
    return {key: _plain(value) if isinstance(value, dict) else value for key, value in node.items()}


def save_config(cfg: CfgNode, path) -> None:
    """Write `resolved_yaml(cfg)` to `path`, whole or not at all. Raises OutputError if it cannot be written."""
    text = f"{WHOLE}\n{resolved_yaml(cfg)}{END}\n"  # what is cut off at the end of a line would be valid, too
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
