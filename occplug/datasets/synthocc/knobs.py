"""The settings of a SynthOcc world."""

from __future__ import annotations

from dataclasses import dataclass

from occplug.config.defaults import CORE
from occplug.errors import DataError

__all__ = ["CATEGORIES", "DEFAULTS", "Knobs"]

DEFAULTS = CORE["synthocc"]  # the config section

# Occluder category -> prior probability.
CATEGORIES = {
    "car": 0.15, "bicycle": 0.10, "person": 0.12, "plant": 0.11, "box": 0.10, "pole": 0.07, "wall": 0.07,
    "umbrella": 0.06, "fence": 0.06, "sign": 0.06, "bin": 0.05, "suitcase": 0.05,
}  # fmt: skip


@dataclass(frozen=True)
class Knobs:
    """What a world looks like; equal knobs give equal personas, cameras and images.

    Raises:
        DataError: a value that no world can have; names the knob.
    """

    seed: int = DEFAULTS["seed"]
    severity: float = DEFAULTS["severity"]  # of the cameras' photometric differences, 0 (none) to 1
    group_size: int = DEFAULTS["group_size"]  # look-alikes per group; 1: none. Part of what a persona is
    ratio: tuple[float, float] = tuple(DEFAULTS["ratio"])  # occluded share of the person's pixels
    num_cameras: int = 6
    # categories that queries show, but neither train nor the bank
    heldout_occluders: tuple[str, ...] = tuple(DEFAULTS["heldout_occluders"])
    size: tuple[int, int] = (128, 64)  # of the images: height, width
    occ_train: float = 0.10  # share of occluded training images
    occ_gallery: float = 0.10  # share of occluded gallery images

    def __post_init__(self):
        # Lists come from YAML and JSON; equality and hashing need tuples.
        for name in ("ratio", "heldout_occluders", "size"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        low, high = self.ratio if len(self.ratio) == 2 else (1, 0)
        if not 0 <= low < high <= 1:
            raise DataError(f"synthocc: ratio must be [low, high] with 0 <= low < high <= 1, not {list(self.ratio)}")
        if not 0 <= self.severity <= 1:
            raise DataError(f"synthocc: severity must lie in [0, 1], not {self.severity}")
        if self.group_size < 1:
            raise DataError(f"synthocc: group_size must be at least 1, not {self.group_size}")
        if self.seed < 0:
            raise DataError(f"synthocc: seed must not be negative, not {self.seed}")
        unknown = set(self.heldout_occluders) - set(CATEGORIES)
        if unknown or len(set(self.heldout_occluders)) == len(CATEGORIES):
            wrong = f"unknown {sorted(unknown)}" if unknown else "none is left for training"
            raise DataError(f"synthocc: heldout_occluders: {wrong}; categories are {', '.join(CATEGORIES)}")
        for name in ("occ_train", "occ_gallery"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"synthocc: {name} must lie in [0, 1], not {getattr(self, name)}")

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width of the picture before it is degraded and scaled to `size`."""
        height = 192 if self.size[0] <= 128 else 288
        return height, round(height * self.size[1] / self.size[0])
