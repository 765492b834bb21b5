"""Loss functions: one formula a file, callable modules that return a scalar, computed in float32.

Label-smoothed cross entropy is torch's own (`torch.nn.functional.cross_entropy(..., label_smoothing=0.1)`).
"""

from occplug.losses.attribute_align import AttributeAlign, noise_threshold, otsu_threshold
from occplug.losses.supcon import SupCon
from occplug.losses.triplet import BatchHardTriplet

__all__ = ["AttributeAlign", "BatchHardTriplet", "SupCon", "noise_threshold", "otsu_threshold"]
