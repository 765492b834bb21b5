"""The 36 channels of a part mask file, and the groupings of them into parts that methods use.

Channels are the confidence fields of PifPaf (Kreiss et al., arXiv 1903.06593): 17 keypoints, then 19 limbs; the
groupings are those of BPBReID (arXiv 2211.03679) and ProFD (arXiv 2409.20081). A part's prompt is its name.
"""

from __future__ import annotations

__all__ = ["KEYPOINTS", "LIMBS", "NUM_CHANNELS", "SCHEMES"]

# COCO's keypoints, in its order
KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip

# channels 17 to 35: the two keypoints of each limb
LIMBS = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10), (1, 2),
    (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip

NUM_CHANNELS = len(KEYPOINTS) + len(LIMBS)

_HEAD = (*range(0, 5), *range(29, 36))

# scheme -> part -> channels; the background is no part. In `five_v`, 21 (hips) and 22 (left shoulder to hip) are in no
# part while 22's mirror image 23 is: an asymmetry of the original, kept because published models were trained with it.
SCHEMES: dict[str, dict[str, tuple[int, ...]]] = {
    "five_v": {
        "head": _HEAD,
        "upper arms torso": (5, 6, 7, 8, 24, 25, 26),
        "lower arms torso": (9, 10, 11, 12, 23, 27, 28),
        "legs": (11, 12, 13, 14, 17, 18, 19, 20),
        "feet": (15, 16),
    },
    "eight": {
        "head": _HEAD,
        "left arm": (5, 7, 9, 25, 27),
        "right arm": (6, 8, 10, 26, 28),
        "torso": (11, 12, 21, 22, 23, 24),
        "left leg": (13, 17, 18, 21),
        "right leg": (14, 19, 20),
        "left feet": (15,),
        "right feet": (16,),
    },
    "four_v": {
        "head mask": _HEAD,
        "arms torso mask": (*range(5, 13), *range(21, 29)),
        "legs mask": (11, 12, 13, 14, 17, 18, 19, 20),
        "feet mask": (15, 16),
    },
    "three_v": {
        "head mask": _HEAD,
        "torso arms mask": (*range(5, 11), *range(22, 29)),
        "legs mask": tuple(range(11, 22)),
    },
    "two_v": {
        "torso arms head": (*range(0, 11), *range(22, 36)),
        "legs": tuple(range(11, 22)),
    },
}
