"""Where settings come from: yaml files with their `_base_` files, and the command line."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from occplug.config.defaults import RENAMED_KEYS
from occplug.config.places import find_config
from occplug.errors import ConfigError
from occplug.utils.texts import parse_yaml_text, read_text

__all__ = [
    "COMMAND_LINE",
    "END",
    "WHOLE",
    "Setting",
    "current_key",
    "current_setting",
    "flatten",
    "mapping_of",
    "parse_options",
    "parse_yaml",
    "read_settings",
]

log = logging.getLogger(__name__)
COMMAND_LINE = "command line"
WHOLE, END = "# All keys of a run; the last line is '...'.", "..."  # first and last line of what `save_config` writes
MAX_BASES = 64  # files that one config may be made of


@dataclass(frozen=True)
class Setting:
    """One dotted key, its value, and the file or command line it comes from."""

    key: str
    value: Any
    where: str


def read_settings(file: Path, chain: tuple[Path, ...] = (), read: list[Path] | None = None) -> Iterator[Setting]:
    """Settings of the yaml `file`, those of its `_base_` files first.

    Args:
        chain: the files that led here as bases of one another.
        read: all files that were read before.

    Raises:
        ConfigError: a base is missing, not yaml, or a circle, or there are more than `MAX_BASES`; names the files.
    """
    read = [] if read is None else read
    read.append(file)
    if file in chain:
        raise ConfigError(f"_base_ goes in a circle: {' -> '.join(map(str, (*chain, file)))}")
    if len(read) > MAX_BASES:
        raise ConfigError(
            f"{read[0]}: with its _base_ files it reads more than {MAX_BASES} files, the limit, {file} among them "
            f"{read.count(file)} times; name each base once"
        )
    content = parse_yaml(file)
    bases = content.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{file}: _base_ is {bases!r}, expected a path or a list of paths")
    for base in bases:
        yield from read_settings(_base_file(base, file), (*chain, file), read)
    yield from (Setting(key, value, str(file)) for key, value in _given(content))


def _base_file(base: str, file: Path) -> Path:
    """The file that `file` names as `base`: relative to its own folder, or one of occplug's by its name."""
    beside = Path(os.path.normpath(file.parent / base))
    if beside.is_file():
        return beside
    try:
        return find_config(base)
    except ConfigError:
        raise ConfigError(f"{file}: its _base_ {beside} does not exist") from None


def parse_yaml(file: Path) -> dict:
    """Content of the yaml `file`. Raises ConfigError if it is not yaml, gives a key twice, or is not a mapping."""
    try:
        text = read_text(file)
        if text.startswith(WHOLE) and text.rstrip().rpartition("\n")[2] != END:
            raise ValueError(f"it is cut off, its last line is not {END!r}; restore it, or start the run again")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not a readable text file ({error})") from error
    except ValueError as error:  # too long, or cut off
        raise ConfigError(f"{file}: not valid yaml: {error}") from error
    return mapping_of(text, str(file))


def mapping_of(text: str, file: str) -> dict:
    """Content of the yaml `text`; messages call it `file`. Raises ConfigError as `parse_yaml`."""
    try:
        content = parse_yaml_text(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{line}: not valid yaml: {getattr(error, 'problem', None) or error}") from error
    except ValueError as error:  # a 30th of February
        raise ConfigError(f"{file}: not valid yaml: {error}") from error
    if not isinstance(content, dict | None):
        raise ConfigError(f"{file}: not a config: expected keys with values, but it holds {type(content).__name__}")
    return content or {}


def _given(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """As `flatten`, and an empty dict as the value of its key, which may be wanted to be something else."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _given(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def flatten(tree: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted keys and values of the leaves of nested dicts; an empty dict has none."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def current_key(key: str) -> str:
    """`key` by its name of today (`RENAMED_KEYS`)."""
    for old, new in RENAMED_KEYS.items():
        if key == old or key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


def current_setting(setting: Setting) -> Setting:
    """`setting` with its key's name of today; an older one, of which a user can rid a file, is noted once."""
    key = current_key(setting.key)
    if key != setting.key:
        _note_renamed(setting.key.partition(".")[0], key.partition(".")[0])
    return replace(setting, key=key)


@functools.cache
def _note_renamed(old: str, new: str) -> None:
    log.warning("the config section %s is called %s now; the old name is read for one more version", old, new)


def parse_options(opts: list) -> list[Setting]:
    """Settings of `[key, value, ...]` or `["key=value", ...]`, or both mixed. Raises ConfigError for a lone key.

    Args:
        opts: a `Setting` among them keeps its own origin and its value; all others come from the command line.
    """
    form = "give pairs KEY VALUE or KEY=VALUE"
    settings, rest = [], list(opts)
    while rest:
        key = rest.pop(0)
        if isinstance(key, Setting):
            settings.append(key)
            continue
        if not isinstance(key, str):
            raise ConfigError(f"{COMMAND_LINE}: {key!r} stands where a key is expected; {form}")
        if "=" in key:
            key, value = key.split("=", 1)
        elif rest:
            value = rest.pop(0)
        else:
            raise ConfigError(f"{COMMAND_LINE}: {key!r} has no value; {form}")
        settings.append(Setting(key, value, COMMAND_LINE))
    return settings
