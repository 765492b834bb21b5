"""occplug: CLIP-based occluded person re-identification for torchreid.

Importing this package changes nothing in torchreid; :func:`register` does, and :func:`unregister` undoes it.
"""

from occplug.config import load_config
from occplug.embedding import Embedding
from occplug.method import build_method

__version__ = "0.1.0"
__all__ = ["Embedding", "build_method", "load", "load_config", "register", "unregister"]


def load(weights, config_file=None, options=None, device="cpu"):
    """The trained model behind `weights`, for pictures of one's own: :func:`occplug.extractor.load`."""
    from occplug import extractor

    return extractor.load(weights, config_file, options, device)


def register() -> None:
    """Put occplug's models, data sets, samplers and transforms into torchreid. Calling it twice does nothing more."""
    from occplug import torchreid_bridge

    torchreid_bridge.register()


def unregister() -> None:
    """Take everything :func:`register` added out of torchreid again."""
    from occplug import torchreid_bridge

    torchreid_bridge.unregister()
