"""Loss functions: one formula a file, callable modules that return a scalar, computed in float32.

Label-smoothed cross entropy is torch's (`torch.nn.functional.cross_entropy(..., label_smoothing=0.1)`).
"""

from occplug.losses.angular_margin import AngularMargin
from occplug.losses.attention_align import AttentionAlign
from occplug.losses.attribute_align import AttributeAlign, noise_threshold, otsu_threshold
from occplug.losses.budget import Budget
from occplug.losses.head_diversity import HeadDiversity
from occplug.losses.ignoring import IgnoringCrossEntropy
from occplug.losses.part_diversity import PartDiversity
from occplug.losses.patch_labels import patch_labels, visible_parts
from occplug.losses.prototype_memory import PrototypeMemory
from occplug.losses.spatial_align import SpatialAlign
from occplug.losses.supcon import SupCon
from occplug.losses.triplet import BatchHardTriplet
from occplug.losses.visibility_focal import VisibilityFocal

__all__ = [
    "AngularMargin",
    "AttentionAlign",
    "AttributeAlign",
    "BatchHardTriplet",
    "Budget",
    "HeadDiversity",
    "IgnoringCrossEntropy",
    "PartDiversity",
    "PrototypeMemory",
    "SpatialAlign",
    "SupCon",
    "VisibilityFocal",
    "noise_threshold",
    "otsu_threshold",
    "patch_labels",
    "visible_parts",
]
