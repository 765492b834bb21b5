"""Image transforms: torchvision-v2 transforms by name, and the pipelines made of them."""

from occplug.transforms.crop import PadCrop
from occplug.transforms.erasing import RandomErasePixel
from occplug.transforms import stock as _stock  # noqa: F401  (registers torchreid's names)
from occplug.transforms.pipeline import Pipeline, build_pipeline, compose_for_stock

__all__ = ["PadCrop", "Pipeline", "RandomErasePixel", "build_pipeline", "compose_for_stock"]
