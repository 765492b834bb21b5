"""Loss functions: one formula a file, callable modules that return a scalar, computed in float32.

Label-smoothed cross entropy is torch's own (`torch.nn.functional.cross_entropy(..., label_smoothing=0.1)`).
"""

from occplug.losses.angular_margin import AngularMargin
from occplug.losses.budget import Budget
from occplug.losses.head_diversity import HeadDiversity
from occplug.losses.ignoring import IgnoringCrossEntropy
from occplug.losses.supcon import SupCon
from occplug.losses.triplet import BatchHardTriplet

__all__ = ["AngularMargin", "BatchHardTriplet", "Budget", "HeadDiversity", "IgnoringCrossEntropy", "SupCon"]
