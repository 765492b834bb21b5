"""A persona in a pose, as a list of solids painted from back to front."""

from __future__ import annotations

import numpy as np

from occplug.datasets.synthocc import textures
from occplug.datasets.synthocc.parts import CODES
from occplug.datasets.synthocc.persona import Persona
from occplug.datasets.synthocc.pose import KEYPOINTS, View
from occplug.datasets.synthocc.solid import Canvas, Light, Solid, Surface, paint

__all__ = ["paint_person"]

# Half-widths (lateral a, sagittal b) from top to bottom, body units.
_TORSO_A = np.array([0.055, 0.108, 0.117, 0.118, 0.112, 0.103, 0.099, 0.101, 0.106, 0.108])
_TORSO_B = np.array([0.045, 0.062, 0.074, 0.080, 0.078, 0.072, 0.070, 0.071, 0.074, 0.076])
_HEAD = np.array([0.026, 0.045, 0.054, 0.057, 0.056, 0.053, 0.047, 0.038, 0.024])
_TORSO_TOP = 0.832
_HEM = {"t-shirt": 0.50, "shirt": 0.495, "hoodie": 0.48, "jacket": 0.475, "coat": 0.475}
_CHEST = 0.655  # height where upper torso meets lower torso


class _Builder:
    """Collects the solids of one person; positions in body units, `self.solids` in pixels."""

    def __init__(self, person: Persona, joints: dict[str, np.ndarray], view: View):
        self.person, self.joints, self.view = person, joints, view
        self.solids: list[Solid] = []
        phases = 6.28 * np.array([*person.phases, sum(person.phases)])
        self.folds = (float(phases[0]), float(phases[2]))
        legs = [f"{side}_{joint}" for side in ("left", "right") for joint in ("hip", "knee", "ankle", "toe")]
        depth = view.project(np.stack([joints[name] for name in legs]))[1]
        # Skirt, coat and torso come after both legs whatever the depth; near arms and bags after the torso.
        self.torso_order = max(float(depth.max()), 0.0) + 0.01

    def order(self, depth: float) -> float:
        """Painting order of what hangs on the torso: behind it, or in front of it and of the legs."""
        return depth if depth <= 0 else self.torso_order + depth

    def add(self, start, end, radii, code, texture, *, order=None, is_leg=False, depth_radii=None, **options) -> None:
        """One solid from `start` to `end` [3]; `depth_radii`: sagittal half-widths of an elliptic cross-section."""
        (p, q), depth = self.view.project(np.array([start, end], np.float64))
        radii = np.asarray(radii, np.float64)
        if depth_radii is not None:
            radii = np.hypot(radii * np.cos(self.view.yaw), np.asarray(depth_radii) * np.sin(self.view.yaw))
        if order is None:
            middle = float(depth.mean())
            order = middle if is_leg else self.order(middle)
        scaled = np.maximum(radii * self.view.scale, 0.6)
        self.solids.append(Solid(p, q, scaled, order, code, texture, yaw=self.view.yaw, **options))

    def legs(self) -> None:
        """Both legs with shoes, under trousers, shorts or a skirt."""
        person, w = self.person, 0.5 + 0.5 * self.person.width
        covered = {"trousers": (9.0, 9.0), "shorts": (0.88, -9.0), "skirt": (-9.0, -9.0)}[person.bottom_type]
        loose = 0.006 if person.bottom_type == "trousers" else 0.0
        thigh = np.array([0.060, 0.058, 0.053, 0.048, 0.043 + loose])
        if person.bottom_type == "shorts":
            thigh = np.array([0.062, 0.062, 0.061, 0.060, 0.060, 0.060, 0.060, 0.060, 0.043, 0.043])
        shank = np.array([0.042 + loose, 0.043 + loose, 0.036 + loose, 0.028 + 1.5 * loose])
        for side in ("left", "right"):
            hip, knee, ankle = (self.joints[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
            bare = person.bottom_type != "trousers"
            self.add(
                hip, knee, thigh * w, CODES[f"{side}_thigh"], textures.legwear(person, covered[0]),
                is_leg=True, caps=(0.6, 1.0), folds=self.folds,
            )  # fmt: skip
            cloth = textures.skin(person) if bare else person.color("bottom")
            self.add(
                knee, ankle, shank * w, CODES[f"{side}_shank"], cloth,
                is_leg=True, caps=(1.0, 0.3), folds=None if bare else self.folds,
            )  # fmt: skip
            heel, toe = self.joints[f"{side}_heel"], self.joints[f"{side}_toe"]
            foot = np.array([0.026, 0.027, 0.025, 0.021])
            order = float(self.view.project(np.stack([heel, toe]))[1].mean()) + 0.003
            self.add(heel, toe, foot, CODES[f"{side}_foot"], person.color("shoe"), order=order)

    def hips(self) -> None:
        """Seat of the trousers, skirt, coat tail."""
        person, w = self.person, self.person.width
        self.add(
            (0, 0.585, 0), (0, 0.475, 0), np.array([0.096, 0.103, 0.104]) * w, CODES["lower_torso"],
            person.color("bottom"), depth_radii=np.array([0.066, 0.072, 0.072]) * w,
            order=self.torso_order - 0.004, caps=(0.3, 0.35), folds=self.folds,
        )  # fmt: skip
        stride = abs(self.joints["left_ankle"][2] - self.joints["right_ankle"][2])
        if person.bottom_type == "skirt":
            self.add(
                (0, 0.55, 0), (0, 0.305, 0), np.array([0.098, 0.116, 0.128, 0.138]) * w, CODES["skirt"],
                person.color("bottom"), depth_radii=np.array([0.07, 0.09, 0.105, 0.118]) * w + 0.12 * stride,
                order=self.torso_order - 0.003, caps=(0.05, 0.06), folds=self.folds,
            )  # fmt: skip
        if person.top_type == "coat":
            self.add(
                (0, 0.50, 0), (0, 0.345, 0), np.array([0.110, 0.118, 0.124, 0.128]) * w, CODES["skirt"],
                textures.tail(person, 0.155), depth_radii=np.array([0.08, 0.09, 0.1, 0.108]) * w + 0.1 * stride,
                order=self.torso_order - 0.002, caps=(0.05, 0.05), folds=self.folds,
            )  # fmt: skip

    def torso(self) -> None:
        """Chest and belly under the top, down to its hem."""
        person, w = self.person, self.person.width
        hem = _HEM[person.top_type]
        border = (_TORSO_TOP - _CHEST) / (_TORSO_TOP - hem)

        def code(surface: Surface) -> np.ndarray:
            return np.where(surface.t < border, CODES["upper_torso"], CODES["lower_torso"])

        self.add(
            (0, _TORSO_TOP, 0), (0, hem, 0), _TORSO_A * w, code, textures.torso(person, _TORSO_TOP - hem),
            depth_radii=_TORSO_B * w, order=self.torso_order, caps=(0.35, 0.08), folds=self.folds,
        )  # fmt: skip
        if person.top_type == "hoodie":
            self.add(
                (-0.04 * w, 0.828, -0.062 * w), (0.04 * w, 0.828, -0.062 * w), [0.034], CODES["upper_torso"],
                0.85 * person.color("top"),
            )  # fmt: skip

    def arms(self) -> None:
        """Both arms with hands, in the sleeves of the top."""
        person, w = self.person, 0.5 + 0.5 * self.person.width
        is_short = person.top_type == "t-shirt"
        bulk = 0.005 if person.top_type in ("jacket", "coat", "hoodie") else 0.0
        upper = np.array([0.037, 0.036, 0.034, 0.032]) + bulk
        if is_short:
            upper = np.array([0.037, 0.037, 0.036, 0.036, 0.036, 0.036, 0.030, 0.029, 0.029, 0.028])
        fore = np.array([0.030, 0.029, 0.026, 0.023]) + bulk if not is_short else np.array([0.028, 0.027, 0.023, 0.019])
        for side in ("left", "right"):
            shoulder, elbow, wrist, hand = (self.joints[f"{side}_{n}"] for n in ("shoulder", "elbow", "wrist", "hand"))
            self.add(
                shoulder, elbow, upper * w, CODES[f"{side}_upper_arm"],
                textures.sleeve(person, 0.165, 0.6 if is_short else 9.0), caps=(0.65, 1.0), folds=self.folds,
            )  # fmt: skip
            cloth = textures.skin(person) if is_short else textures.sleeve(person, 0.155, 9.0)
            self.add(
                elbow, wrist, fore * w, CODES[f"{side}_forearm"], cloth,
                caps=(1.0, 0.3), folds=None if is_short else self.folds,
            )  # fmt: skip
            self.add(wrist, hand, [0.019, 0.017], CODES[f"{side}_forearm"], textures.skin(person))

    def head(self) -> None:
        """Neck, head, hair and what is worn on it."""
        person, front = self.person, self.torso_order + 0.05
        code = CODES["head"]
        self.add((0, 0.88, 0.0), (0, 0.815, -0.005), [0.030, 0.033], code, textures.skin(person),
                 order=self.torso_order - 0.001)  # fmt: skip
        self.add((0, 0.988, 0.008), (0, 0.862, 0.012), _HEAD, code, textures.head(person),
                 depth_radii=1.14 * _HEAD, order=front, caps=(0.45, 0.35))  # fmt: skip
        hair = person.color("hair")
        if person.hair == "long":
            self._behind_head((0, 0.955, -0.022), (0, 0.765, -0.045), [0.056, 0.064, 0.066, 0.058], hair)
        elif person.hair == "ponytail":
            self._behind_head((0, 0.945, -0.072), (0, 0.80, -0.088), [0.024, 0.026, 0.018], hair)
        if person.hat != "none":
            self._hat(front)

    def _behind_head(self, start, end, radii, hair: np.ndarray) -> None:
        depth = self.view.project(np.array([start, end]))[1].mean()
        order = self.torso_order + 0.05 + 2 * depth if depth > 0 else self.order(depth)
        if abs(np.sin(self.view.yaw)) > 0.6 and depth <= 0:  # from the side it lies over the shoulders, beside the face
            order = self.torso_order + 0.02
        flat = 0.55 * np.asarray(radii) + 0.008
        self.add(start, end, radii, CODES["head"], hair, depth_radii=flat, order=order, caps=(0.9, 0.6))

    def _hat(self, front: float) -> None:
        person, code = self.person, CODES["head"]
        color = person.color("hat")
        tall = 1.006 if person.hat == "beanie" else 0.998
        dome = np.array([0.032, 0.05, 0.058, 0.061])
        self.add((0, tall, 0.004), (0, 0.944, 0.006), dome, code, color, depth_radii=1.14 * dome,
                 order=front + 0.001, caps=(0.5, 0.08))  # fmt: skip
        if person.hat == "beanie":
            self.add((0, 0.962, 0.006), (0, 0.942, 0.006), [0.063, 0.063], code, 0.72 * color,
                     depth_radii=[0.071, 0.071], order=front + 0.002, caps=(0.1, 0.1))  # fmt: skip
            return
        facing = np.cos(self.view.yaw)
        order = front + (0.003 if facing > -0.3 else -0.001)
        self.add((0, 0.947, 0.05), (0, 0.941, 0.118), [0.016, 0.012], code, 0.8 * color, order=order)
        self.add((-0.04, 0.944, 0.088), (0.04, 0.944, 0.088), [0.013], code, 0.8 * color, order=order)

    def bag(self) -> None:
        """The bag, where the person carries one."""
        person, w = self.person, self.person.width
        color, code = person.color("bag"), CODES["carried"]
        sign, side = (1, "left") if person.bag_side == "left" else (-1, "right")
        if person.bag == "backpack":
            z = -(0.072 * w + 0.042)
            a, b = np.array([0.070, 0.086, 0.090, 0.090]), np.array([0.036, 0.048, 0.056, 0.056])
            self.add((0, 0.79, z), (0, 0.60, z), a, code, textures.long_bag(person), depth_radii=b, caps=(0.5, 0.25))
        elif person.bag == "shoulder bag":
            x = sign * (0.118 * w + 0.03)
            self.add((x, 0.545, 0.02), (x, 0.465, 0.02), [0.042, 0.046], code, textures.long_bag(person),
                     depth_radii=[0.072, 0.078], caps=(0.12, 0.2))  # fmt: skip
        elif person.bag == "handbag":
            x, y, z = self.joints[f"{side}_hand"]
            self.add((x, y, z), (x, y - 0.035, z), [0.009], code, 0.75 * color)
            self.add((x, y - 0.04, z), (x, y - 0.115, z), [0.030, 0.040], code, textures.long_bag(person),
                     depth_radii=[0.058, 0.070], caps=(0.1, 0.15))  # fmt: skip


def paint_person(
    canvas: Canvas, person: Persona, joints: dict[str, np.ndarray], view: View, light: Light
) -> np.ndarray:
    """Paint a person over `canvas`.

    Args:
        joints: of `pose.skeleton`, body units.
    Returns:
        [17, 2] projected COCO joints, pixels.
    """
    builder = _Builder(person, joints, view)
    for build in (builder.legs, builder.hips, builder.torso, builder.arms, builder.head, builder.bag):
        build()
    for solid in sorted(builder.solids, key=lambda solid: solid.order):
        paint(canvas, solid, light)
    return view.project(np.stack([joints[name] for name in KEYPOINTS]))[0]
