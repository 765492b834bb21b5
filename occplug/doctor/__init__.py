"""What is installed, which data sets are there, and what is wrong with their images: for users and for issues."""

from occplug.doctor.building import build_occluded_duke
from occplug.doctor.duplicates import near_pairs
from occplug.doctor.images import examine
from occplug.doctor.report import as_text, report

__all__ = ["as_text", "build_occluded_duke", "examine", "near_pairs", "report"]
