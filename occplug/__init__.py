"""occplug: CLIP-based occluded person re-identification for torchreid.

Importing this package changes nothing in torchreid; :func:`register` does, and :func:`unregister` undoes it.
"""

from __future__ import annotations

import importlib

from occplug import _moved

_moved.install()

# imported when they are first asked for, so that `import occplug` and `occplug --help` take no seconds
_LAZY = {
    "Embedding": "occplug.embedding",
    "Gallery": "occplug.serving.gallery",
    "build_method": "occplug.method",
    "load_config": "occplug.config",
}


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module 'occplug' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


__version__ = "0.1.0"
__all__ = ["Embedding", "Gallery", "build_method", "evaluate", "load", "load_config", "register", "train", "unregister"]


def train(cfg, resume=False, after=None, config_file="") -> dict:
    """Train and test `cfg`: :func:`occplug.runs.train.train`; returns what `metrics.json` holds."""
    from occplug.runs.train import train

    return train(cfg, resume, after, config_file)


def evaluate(cfg, weights, rerank=False) -> dict:
    """Test `weights` with `cfg`: :func:`occplug.runs.evaluate.evaluate`; returns what `metrics.json` holds."""
    from occplug.runs.evaluate import evaluate

    return evaluate(cfg, weights, rerank)


def load(weights, config_file=None, options=None, device="cpu"):
    """The trained model at `weights`, for a user's images: :func:`occplug.serving.extractor.load`."""
    from occplug.serving import extractor

    return extractor.load(weights, config_file, options, device)


def register() -> None:
    """Put occplug's models, data sets, samplers and transforms into torchreid. Calling it twice does nothing more."""
    from occplug.plugin import register

    register.register()


def unregister() -> None:
    """Take everything :func:`register` added out of torchreid again."""
    from occplug.plugin import register

    register.unregister()
