"""Whether two images show the same person, in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Same"]


@dataclass(frozen=True)
class Same:
    """Answers for N pairs, arrays [N]; for one pair plain numbers.

    Args:
        probability: that both show the same person; nan where it abstains.
        distance: the method's own.
        false_accept_rate: share of pairs of different identities that are as near; of the n pairs of the calibration
            at least 1/n, which stands for less.
        common_visibility: how much of the body both images show, in [0, 1]; nan where the method does not say.
        abstains: nothing of the body is visible in both images, so the distance says nothing.
    """

    probability: float | np.ndarray
    distance: float | np.ndarray
    false_accept_rate: float | np.ndarray
    common_visibility: float | np.ndarray
    abstains: bool | np.ndarray

    @classmethod
    def of(cls, *values: np.ndarray) -> Same:
        """From arrays [N]; one pair becomes plain numbers."""
        return cls(*(value.item() if len(value) == 1 else value for value in values))
