"""Losses on their way from the device to the log, the progress bar and the check that they are finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

__all__ = ["LossReader"]


class LossReader:
    """Hands on what the losses of a step are: at once, or, so that nobody waits for the device, one step later.

    Asking a GPU for a number stops the program until all work before it is done, and the GPU until it gets new work.
    With `delays` the numbers are copied to the host beside the backward pass, and read when the next step begins.
    """

    def __init__(self, delays: bool = False):
        self.delays = delays
        self._waiting: list[Callable[[], None]] = []

    def read(self, losses: Mapping[str, Tensor], note: Callable[[dict[str, float]], None]) -> dict[str, float]:
        """Give `note` the values of `losses`, scalars; raises what it raises, at once or at the next step's `begin`.

        Returns: the values, or {} if they come later.
        """
        if not self.delays:
            values = {name: float(loss.detach()) for name, loss in losses.items()}
            note(values)
            return values
        values_on_device = torch.stack([loss.detach().double() for loss in losses.values()])
        host, arrived = _sent(values_on_device)

        def hand_on() -> None:
            arrived()
            note(dict(zip(losses, host.tolist())))

        self._waiting.append(hand_on)
        return {}

    def begin(self) -> None:
        """Hand on the values of the step before; to be called when a step begins and after the last one."""
        waiting, self._waiting = self._waiting, []
        for hand_on in waiting:
            hand_on()


def _sent(values: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """Memory on the host that `values` are copied to, and what waits until they are there."""
    if values.device.type != "cuda":
        return values.clone(), lambda: None
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event.synchronize
