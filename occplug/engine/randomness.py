"""All random states of a run, as plain tensors and numbers that load with `weights_only=True`."""

import random
from typing import cast

import numpy as np
import torch

from occplug.errors import CheckpointError

__all__ = ["random_states", "restore_random_states", "seed_everything"]


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_states() -> dict:
    """The states of python's, numpy's and torch's generators."""
    kind, keys, position, has_gauss, cached = cast(tuple, np.random.get_state())
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        # of the device this process computes on: where there are several, each process has its own
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict, path="the checkpoint") -> None:
    """Undo everything drawn since `random_states` returned `states`, which the file `path` holds.

    Raises:
        CheckpointError: `states` are not what `random_states` returns.
    """
    try:
        version, internal, gauss = states["python"]
        random.setstate((version, tuple(internal), gauss))
        kind, keys, position, has_gauss, cached = states["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
        torch.set_rng_state(states["torch"])
        if torch.cuda.is_available() and states["cuda"]:
            torch.cuda.set_rng_state(states["cuda"][0])
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: its states of the random generators are damaged ({error}); resume from another file"
        ) from error
