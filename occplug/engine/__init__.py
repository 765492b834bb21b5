"""The one training loop: torchreid's `Engine`, driven through a method's stages. Who calls whom:

MethodEngine.run_stages            for each stage of the method
  MethodEngine._run_one            freeze, `Stage.prepare`, optimizers and schedules, resume
    RunMixin.run_stage             ours: one call of torchreid's `run`
      Engine.run                   torchreid's: epochs, test, `save_model`
        RunMixin.train             ours: seeds the epoch's draws, progress bar, `last.pth` after the epoch
          Engine.train             torchreid's: batches of `self.train_loader`, learning rates
            MethodEngine.forward_backward   ours: `Stage.losses`, gradients, steps, `Stage.after_step`
        RunMixin.test -> _evaluate torchreid's signature, our embeddings, distances and ranking
        RunMixin.save_model        ours: `checkpoints/<stage>.pth` at the end of a stage
"""

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
