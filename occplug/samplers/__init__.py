"""Training samplers, beside torchreid's own."""

from occplug.samplers.identity import IdentitySampler

__all__ = ["IdentitySampler"]
