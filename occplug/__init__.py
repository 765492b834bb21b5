"""occplug: CLIP-based occluded person re-identification for torchreid.

Importing this package changes nothing in torchreid; :func:`register` does, and :func:`unregister` undoes it.
"""

from occplug import _moved
from occplug.config import load_config
from occplug.embedding import Embedding
from occplug.method import build_method

_moved.install()

__version__ = "0.1.0"
__all__ = ["Embedding", "build_method", "evaluate", "load", "load_config", "register", "train", "unregister"]


def train(cfg, resume=False, after=None, config_file="") -> dict:
    """Train and test `cfg`: :func:`occplug.runs.train.train`; returns what `metrics.json` holds."""
    from occplug.runs.train import train

    return train(cfg, resume, after, config_file)


def evaluate(cfg, weights, rerank=False) -> dict:
    """Test `weights` with `cfg`: :func:`occplug.runs.evaluate.evaluate`; returns what `metrics.json` holds."""
    from occplug.runs.evaluate import evaluate

    return evaluate(cfg, weights, rerank)


def load(weights, config_file=None, options=None, device="cpu"):
    """The trained model behind `weights`, for pictures of one's own: :func:`occplug.runs.extractor.load`."""
    from occplug.runs import extractor

    return extractor.load(weights, config_file, options, device)


def register() -> None:
    """Put occplug's models, data sets, samplers and transforms into torchreid. Calling it twice does nothing more."""
    from occplug.plugin import register

    register.register()


def unregister() -> None:
    """Take everything :func:`register` added out of torchreid again."""
    from occplug.plugin import register

    register.unregister()
