"""SynthOcc: the embedded occluded re-identification benchmark, rendered on the spot (version `synthocc-1`).

Synthetic people in look-alike groups, before a few cameras, with exact part maps, keypoints, captions and occlusion
ratios. Nobody shown is real, and no figure measured here says anything about real pedestrians.
"""

from occplug.datasets.synthocc.benchmark import build
from occplug.datasets.synthocc.captions import caption, parse_caption, training_caption, visible_clauses
from occplug.datasets.synthocc.image import Rendered, render
from occplug.datasets.synthocc.integrity import check
from occplug.datasets.synthocc.knobs import CATEGORIES, Knobs
from occplug.datasets.synthocc.parts import CODES, GROUPS, group_parts, part_visibility
from occplug.datasets.synthocc.persona import ATTRIBUTES, Persona, persona
from occplug.datasets.synthocc.plan import SIZES

__all__ = [
    "ATTRIBUTES",
    "CATEGORIES",
    "CODES",
    "GROUPS",
    "Knobs",
    "Persona",
    "Rendered",
    "SIZES",
    "build",
    "caption",
    "check",
    "group_parts",
    "parse_caption",
    "part_visibility",
    "persona",
    "render",
    "training_caption",
    "visible_clauses",
]
