"""Training stages that two or more methods run, and the schedules and optimisers stages are made of."""

from occplug.stages.clip_tuning import CLIPTuning
from occplug.stages.optimisers import optimiser
from occplug.stages.prompt_alignment import FeatureCache, prompt_alignment
from occplug.stages.schedules import warmup_cosine, warmup_multistep

__all__ = ["CLIPTuning", "FeatureCache", "optimiser", "prompt_alignment", "warmup_cosine", "warmup_multistep"]
