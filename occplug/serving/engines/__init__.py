"""Search engines: which images of a gallery may be near a query, by the global vector alone.

An engine gives candidates; the method's distance ranks them (:class:`occplug.serving.gallery.Gallery`).
"""

from __future__ import annotations

import importlib

from occplug.errors import ConfigError
from occplug.serving.engines.base import Engine

__all__ = ["ENGINES", "Engine", "build_engine"]

# name -> (module, class, what pip installs for it)
ENGINES = {
    "exact": ("occplug.serving.engines.base", "Exact", ""),
    "faiss": ("occplug.serving.engines.faiss", "Faiss", "occplug[faiss]"),
    "milvus": ("occplug.serving.engines.milvus", "Milvus", "occplug[milvus]"),
}


def build_engine(name: str, inner_product: bool, options: dict) -> Engine:
    """The engine `name`, empty.

    Args:
        inner_product: vectors are compared by their angle, else by squared Euclidean distance.
        options: the engine's own keyword arguments.

    Raises:
        ConfigError: no such engine, an option it does not have or of another kind, or a package that is not installed.
    """
    if name not in ENGINES:
        raise ConfigError(f"engine is {name!r}; there are: {', '.join(ENGINES)}")
    module, kind, extra = ENGINES[name]
    engine = getattr(importlib.import_module(module), kind)
    unknown = [key for key in options if key not in engine.OPTIONS]
    if unknown:
        known = ", ".join(engine.OPTIONS) or "none"
        raise ConfigError(f"the engine {name!r} has no option {unknown[0]!r}; it has: {known}")
    for key, value in options.items():
        _check_option(name, key, value, engine.OPTIONS[key])
    try:
        return engine(inner_product, **options)
    except ImportError as error:
        raise ConfigError(
            f"the engine {name!r} needs a package that is not installed: pip install '{extra}'"
        ) from error


def _check_option(engine: str, key: str, value, default) -> None:
    """Raise ConfigError for a value of another kind: texts have a text by default, amounts have None."""
    is_amount = type(value) is int and value >= 1
    if not (isinstance(value, str) if isinstance(default, str) else value is None or is_amount):
        kind = "a text" if isinstance(default, str) else "a whole number of at least 1"
        raise ConfigError(f"{key} of the engine {engine!r} is {value!r}; it must be {kind}")
