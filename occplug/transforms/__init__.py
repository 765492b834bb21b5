"""Image transforms by name, and the pipelines made of them: decoded picture in, normalised batch out."""

from occplug.transforms.crop import PadCrop
from occplug.transforms.deferred import RawBatch
from occplug.transforms.erasing import RandomErasePixel
from occplug.transforms.oamn import OAMN
from occplug.transforms.oia import OIA
from occplug.transforms.pipeline import (
    PerBatch,
    PerImage,
    Pipeline,
    Resize,
    as_picture,
    build_pipeline,
    compose_for_stock,
)
from occplug.transforms.rwoa import RWOA
from occplug.transforms.stock import ColorJitter, RandomCrop, RandomErase, RandomFlip, RandomPatch

__all__ = [
    "OAMN",
    "OIA",
    "RWOA",
    "ColorJitter",
    "PadCrop",
    "PerBatch",
    "PerImage",
    "Pipeline",
    "RandomCrop",
    "RandomErase",
    "RandomErasePixel",
    "RandomFlip",
    "RandomPatch",
    "RawBatch",
    "Resize",
    "as_picture",
    "build_pipeline",
    "compose_for_stock",
]
