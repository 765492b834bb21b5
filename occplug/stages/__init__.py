"""Training stages that two or more methods run, and the schedules, optimisers and batch mixing stages are made of."""

from occplug.stages.optimisers import optimiser
from occplug.stages.patch_transfer import PatchTransfer, Transfer
from occplug.stages.prompt_alignment import FeatureCache, prompt_alignment
from occplug.stages.saliency import saliency_losses, saliency_stage
from occplug.stages.schedules import warmup_cosine, warmup_multistep

__all__ = [
    "FeatureCache",
    "PatchTransfer",
    "Transfer",
    "optimiser",
    "prompt_alignment",
    "saliency_losses",
    "saliency_stage",
    "warmup_cosine",
    "warmup_multistep",
]
