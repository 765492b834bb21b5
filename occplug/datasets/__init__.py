"""Data sets by name; every module in this folder is imported, so a new one needs no list to be edited."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    if not _module.ispkg:
        importlib.import_module(f"{__name__}.{_module.name}")
