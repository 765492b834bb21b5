"""A walking skeleton in body units, and its weak-perspective projection.

Body frame: body height 1, feet at y = 0, x to the person's left, y up, z forward. At yaw 0 the person faces the camera,
so the person's left is on the image's right.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["KEYPOINTS", "Pose", "View", "draw_pose", "fit_view", "skeleton"]

KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip

_THIGH = _SHANK = 0.235
_UPPER_ARM, _FOREARM, _HAND, _FOOT = 0.165, 0.155, 0.035, 0.095
_TOP, _BOTTOM = 0.01, 0.975  # rows, as shares of the frame height, between which the person stands
HEAD_TOP = 1.03  # with hair or a hat


@dataclass(frozen=True)
class Pose:
    """One moment of a walk."""

    amplitude: float  # rad; 0 stands still
    phase: float  # rad
    arms: str  # "swing", "ear" (one hand at the ear) or "forward" (both forearms)
    ear_side: int  # 1 left, -1 right


def draw_pose(draw: np.random.Generator) -> Pose:
    """A random pose: 15 % stand, 15 % hold a hand to the ear, 15 % both forearms forward."""
    amplitude, phase, still, arms, side = draw.uniform(0, 0.55), draw.uniform(0, 2 * np.pi), *draw.random(3)
    mode = "swing" if arms < 0.7 else "ear" if arms < 0.85 else "forward"
    return Pose(amplitude if still >= 0.15 else 0.0, phase, mode, 1 if side < 0.5 else -1)


def _turn(angle: float, length: float, out: float = 0.0) -> np.ndarray:
    """A limb of `length` hanging down, lifted forward by `angle` rad and outward by `out` rad (towards +x)."""
    down = np.cos(angle)
    return length * np.array([np.sin(out) * down, -np.cos(out) * down, np.sin(angle)])


def _leg(joints: dict[str, np.ndarray], side: str, sign: int, pose: Pose, width: float) -> None:
    phase = pose.phase + (0 if sign > 0 else np.pi)
    swing = pose.amplitude * np.sin(phase)
    flex = pose.amplitude * (0.12 + 0.9 * max(0.0, np.cos(phase)))  # the knee bends while the leg comes forward
    hip = np.array([sign * 0.052 * width, 0.51, 0.0])
    knee = hip + _turn(swing, _THIGH)
    ankle = knee + _turn(swing - flex, _SHANK)
    # heel and toe turn half as far as the shank
    tilt = 0.5 * (swing - flex)
    sole = np.array([0.0, np.sin(tilt), np.cos(tilt)])
    heel = ankle + np.array([0.0, -0.018, 0.0]) - 0.022 * sole
    joints |= {f"{side}_hip": hip, f"{side}_knee": knee, f"{side}_ankle": ankle}
    joints |= {f"{side}_heel": heel, f"{side}_toe": heel + _FOOT * sole + np.array([sign * 0.012, 0.0, 0.0])}


def _arm(joints: dict[str, np.ndarray], side: str, sign: int, pose: Pose, width: float) -> None:
    phase = pose.phase + (np.pi if sign > 0 else 0)  # opposite to the leg of the same side
    swing = 0.9 * pose.amplitude * np.sin(phase)
    shoulder = np.array([sign * 0.112 * width, 0.80, 0.0])
    upper = _turn(swing, _UPPER_ARM, sign * 0.16)
    fore = _turn(swing + 0.12 + 0.5 * pose.amplitude, _FOREARM, sign * 0.05)
    if pose.arms == "forward":
        upper, fore = _turn(0.1, _UPPER_ARM, sign * 0.14), _turn(1.25, _FOREARM, -sign * 0.1)
    elif pose.arms == "ear" and pose.ear_side == sign:
        upper = _turn(0.75, _UPPER_ARM, sign * 0.6)
        to_ear = np.array([sign * 0.075, 0.90, 0.03]) - (shoulder + upper)
        fore = to_ear / np.linalg.norm(to_ear) * _FOREARM
    elbow = shoulder + upper
    wrist = elbow + fore
    joints |= {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_wrist": wrist}
    joints[f"{side}_hand"] = wrist + fore * (_HAND / _FOREARM)


def skeleton(pose: Pose, width: float) -> dict[str, np.ndarray]:
    """Joint name -> [3] in body units; `width` is the factor on lateral sizes."""
    joints = {
        "nose": np.array([0.0, 0.922, 0.075]), "left_eye": np.array([0.022, 0.937, 0.058]),
        "right_eye": np.array([-0.022, 0.937, 0.058]), "left_ear": np.array([0.055, 0.925, 0.005]),
        "right_ear": np.array([-0.055, 0.925, 0.005]),
    }  # fmt: skip
    for side, sign in (("left", 1), ("right", -1)):
        _leg(joints, side, sign, pose, width)
        _arm(joints, side, sign, pose, width)
    return joints


@dataclass(frozen=True)
class View:
    """Where the person stands in the frame and how the camera looks at it."""

    yaw: float  # rad about y; 0 faces the camera
    pitch: float  # rad, camera looking down
    scale: float  # pixels per body height
    column: float  # of the body axis, pixels
    row: float  # of y = 0, pixels

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[n, 3] body units -> (pixels [n, 2] as x, y; depth [n] towards the camera, body units)."""
        turned = points @ self._rotation
        return np.array([self.column, self.row]) + self.scale * turned[:, :2], turned[:, 2]

    @cached_property
    def _rotation(self) -> np.ndarray:
        """[3, 3]: body x, y, z -> image right, image down, towards the camera (before the pitch)."""
        towards = np.array([-np.sin(self.yaw), 0.0, np.cos(self.yaw)])
        across = np.array([np.cos(self.yaw), 0.0, np.sin(self.yaw)])
        up = np.array([0.0, np.cos(self.pitch), 0.0]) - towards * np.sin(self.pitch)
        return np.stack([across, -up, towards], axis=1)


def fit_view(
    joints: dict[str, np.ndarray], yaw: float, pitch: float, body: float, column: float, frame_height: int
) -> View:
    """The lowest foot on the ground line, `body` pixels tall, or less if the head would leave the frame."""
    unit = View(yaw, pitch, 1.0, 0.0, 0.0)
    feet = np.stack([joints[f"{side}_{part}"] for side in ("left", "right") for part in ("heel", "toe")])
    bottom = unit.project(feet)[0][:, 1].max() + 0.02
    top = unit.project(np.array([[0.0, HEAD_TOP, 0.0]]))[0][0, 1]
    scale = min(body, (_BOTTOM - _TOP) * frame_height / (bottom - top))
    return View(yaw, pitch, scale, column, _BOTTOM * frame_height - scale * bottom)
