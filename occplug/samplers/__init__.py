"""Training samplers, beside torchreid's own."""

from occplug.samplers.identity import IdentitySampler, check_identity_batches

__all__ = ["IdentitySampler", "check_identity_batches"]
