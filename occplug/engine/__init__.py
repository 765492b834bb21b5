"""The one training loop: torchreid's `Engine`, driven through a method's stages."""

from occplug.engine.checkpoint import (
    demand_run,
    demand_same_meaning,
    demand_same_run,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    write_atomically,
)
from occplug.engine.earlier import EarlierStages, check_start
from occplug.engine.method_engine import MethodEngine
from occplug.engine.randomness import random_states, restore_random_states, seed_everything
from occplug.engine.stock import stock_engine

__all__ = [
    "EarlierStages",
    "MethodEngine",
    "check_start",
    "demand_run",
    "demand_same_meaning",
    "demand_same_run",
    "load_checkpoint",
    "load_weights",
    "random_states",
    "restore_random_states",
    "save_checkpoint",
    "seed_everything",
    "stock_engine",
    "write_atomically",
]
