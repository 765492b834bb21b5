"""Training stages that two or more methods run, and what they are made of: schedules, optimisers, patch transfer."""

from occplug import _moved
from occplug.stages.groups import module_rate, rated, tower_pattern, with_biases
from occplug.stages.masked import MaskedMethod
from occplug.stages.optimisers import optimiser
from occplug.stages.patch_transfer import PatchTransfer, Transfer, transfer_extras, transfer_once
from occplug.stages.prompt_alignment import CLEAN, OCCLUDED, FeatureCache, OccludedViews, Pair, prompt_alignment
from occplug.stages.saliency import (
    PatchTransferMethod,
    build_patch_transfer,
    clip_saliency_stage,
    saliency_losses,
    saliency_stage,
)
from occplug.stages.schedules import (
    SCHEDULE,
    SCHEDULE_CHOICES,
    SCHEDULE_RANGES,
    rate_schedule,
    warmup_cosine,
    warmup_multistep,
)

__all__ = [
    "CLEAN",
    "OCCLUDED",
    "FeatureCache",
    "MaskedMethod",
    "OccludedViews",
    "Pair",
    "PatchTransfer",
    "PatchTransferMethod",
    "Transfer",
    "build_patch_transfer",
    "clip_saliency_stage",
    "module_rate",
    "optimiser",
    "prompt_alignment",
    "saliency_losses",
    "saliency_stage",
    "transfer_extras",
    "SCHEDULE",
    "SCHEDULE_CHOICES",
    "SCHEDULE_RANGES",
    "rate_schedule",
    "rated",
    "tower_pattern",
    "transfer_once",
    "warmup_cosine",
    "warmup_multistep",
    "with_biases",
]

__getattr__ = _moved.older_names(__name__)
