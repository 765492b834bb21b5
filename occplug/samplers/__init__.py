"""Training samplers, beside torchreid's."""

from occplug.samplers.identity import IdentitySampler, check_identity_batches

__all__ = ["IdentitySampler", "check_identity_batches"]
