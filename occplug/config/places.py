"""Where config files are: where the user says, in a checkout, or in the installed package."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from occplug.errors import ConfigError
from occplug.utils.files import user_path

__all__ = ["find_config", "shipped_configs"]

FOLDER = "configs"


def shipped_configs() -> Path:
    """The folder of occplug's own configs: inside an installed package, else at the root of the checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / FOLDER  # written there by setup.py when a wheel is built
    return inside if inside.is_dir() else package.parent / FOLDER


def find_config(name: str | os.PathLike) -> Path:
    """The config file called `name`.

    Args:
        name: a path; or, relative to the folder `configs` here or to occplug's own, a file's name with or without
            `configs/` before it and `.yaml` after it.

    Raises:
        ConfigError: there is no such file; gives occplug's nearest name, if one is near.
    """
    given = user_path(name)
    names = [given] if given.suffix in (".yaml", ".yml") else [given, given.with_name(f"{given.name}.yaml")]
    for path in names:
        if path.is_file():
            return path
    if not given.is_absolute():
        for path in names:
            inside = Path(*path.parts[1:]) if path.parts[:1] == (FOLDER,) else path
            for folder in (Path(FOLDER), shipped_configs()):
                if (folder / inside).is_file():
                    return folder / inside
    near = difflib.get_close_matches(given.stem, [path.stem for path in shipped_configs().glob("*.yaml")], n=1)
    raise ConfigError(f"{name}: there is no such config file{f'; the nearest is {near[0]}' if near else ''}")
