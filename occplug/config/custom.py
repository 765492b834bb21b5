"""A user's own modules, named by the key `custom_imports` of a config: importing them registers their parts."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path

from occplug.errors import ConfigError

__all__ = ["KEY", "import_custom", "placed"]

KEY = "custom_imports"


def placed(names: list, where: str) -> list[str]:
    """`names` with files as absolute paths; relative ones are relative to the folder of the config file `where`."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"{where}: {KEY} is {names!r}, expected a list of modules or .py files such as [my_method.py]"
        )
    folder = Path(where).absolute().parent if Path(where).is_file() else Path.cwd()
    return [str(folder / name) if name.endswith(".py") else name for name in names]


def import_custom(names: Iterable[str], where: str = KEY) -> None:
    """Import each of `names`, a module or the path of a `.py` file; one that has been imported is left alone.

    Args:
        where: named in messages.

    Raises:
        ConfigError: there is no such file or module, it fails when it is imported, or registers a name that is taken.
    """
    for name in names:
        file = Path(name) if name.endswith(".py") else None
        if file is not None and not file.is_file():
            raise ConfigError(f"{where}: {KEY} names {file}, and there is no such file")
        module = name if file is None else file.stem
        loaded = sys.modules.get(module)
        if file is not None:
            if loaded is not None and Path(getattr(loaded, "__file__", None) or "").resolve() != file.resolve():
                raise ConfigError(f"{where}: {file} has the name of another module, {module}; rename the file")
            # on the path rather than loaded from the file: processes that read images import it by its name
            if loaded is None and str(file.parent) not in sys.path:
                sys.path.insert(0, str(file.parent))
        if loaded is None:
            try:
                importlib.import_module(module)
            except Exception as error:  # whatever a user's file raises
                reason = f"{type(error).__name__}: {error}"
                raise ConfigError(f"{where}: {KEY}: {name} cannot be imported: {reason}") from error
