"""The one training loop: torchreid's `Engine`, driven through a method's stages."""

from occplug import _moved
from occplug.engine.checkpoint import (
    check_run,
    check_same_meaning,
    check_same_run,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from occplug.engine.earlier import EarlierStages, check_start
from occplug.engine.method_engine import MethodEngine
from occplug.engine.randomness import random_states, restore_random_states, seed_everything
from occplug.engine.stock import stock_engine

__all__ = [
    "EarlierStages",
    "MethodEngine",
    "check_start",
    "check_run",
    "check_same_meaning",
    "check_same_run",
    "load_checkpoint",
    "load_weights",
    "random_states",
    "restore_random_states",
    "save_checkpoint",
    "seed_everything",
    "stock_engine",
]

__getattr__ = _moved.older_names(__name__)
