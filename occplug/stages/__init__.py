"""Training stages that two or more methods run, and the schedules and optimisers stages are made of."""

from occplug.stages.optimisers import optimiser
from occplug.stages.prompt_alignment import CLEAN, OCCLUDED, FeatureCache, OccludedViews, Pair, prompt_alignment
from occplug.stages.schedules import warmup_cosine, warmup_multistep

__all__ = [
    "CLEAN",
    "OCCLUDED",
    "FeatureCache",
    "OccludedViews",
    "Pair",
    "optimiser",
    "prompt_alignment",
    "warmup_cosine",
    "warmup_multistep",
]
