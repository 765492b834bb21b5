"""One file per method. Every module in this folder is imported, so a new method needs no list to be edited."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
