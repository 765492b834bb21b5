"""One image: background, person, perhaps an occluder, the detector's crop, the camera."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from occplug.datasets.synthocc.body import paint_person
from occplug.datasets.synthocc.camera import background, camera, degrade, draw_yaw
from occplug.datasets.synthocc.knobs import Knobs
from occplug.datasets.synthocc.occluder import find_occluder
from occplug.datasets.synthocc.parts import part_visibility
from occplug.datasets.synthocc.persona import persona
from occplug.datasets.synthocc.pose import draw_pose, fit_view, skeleton
from occplug.datasets.synthocc.randomness import IMAGE, rng
from occplug.datasets.synthocc.solid import Canvas

__all__ = ["Rendered", "render"]


@dataclass(frozen=True, eq=False)
class Rendered:
    """An image and all that is known about it; arrays have the output size."""

    image: np.ndarray  # uint8 [H, W, 3] RGB, before JPEG
    parts: np.ndarray  # uint8 [H, W], codes of `parts.CODES`; 0 under the occluder
    occluder: np.ndarray | None  # bool [H, W]; None: nothing in front
    category: str | None  # of the occluder
    ratio: float  # hidden share of the person's pixels, before the crop error; 0 without an occluder
    visibility: dict[str, float]  # of the eight groups of parts, visible over full pixels
    keypoints: np.ndarray  # float32 [17, 3]: x, y in pixels, 1 if inside the frame and not under the occluder
    yaw_deg: float  # 0 faces the camera, in (-180, 180]


def render(
    knobs: Knobs, pid: int, camid: int, k: int, *, occluded: bool, seen_only: bool = False, persons: bool = True
) -> Rendered:
    """Image `k` of identity `pid` in camera `camid` (all from 0); it depends on nothing but the arguments.

    Equal (pid, camid, k) with and without `occluded` give twins: same pose, crop and noise.

    Args:
        seen_only: draw no category of `knobs.heldout_occluders`.
        persons: False leaves the person out (the background leak check); labels are those with the person.
    """
    frame = knobs.frame
    person = persona(knobs.seed, pid, knobs.group_size)
    cam = camera(knobs.seed, camid, knobs.severity, frame)
    draw = rng(knobs.seed, IMAGE, pid, camid, k)
    scene = background(cam, frame[1], draw)
    joints = skeleton(draw_pose(draw), person.width)
    yaw, tall = draw_yaw(cam, draw), draw.uniform(0.83, 0.96) * person.stature * frame[0]
    column = frame[1] / 2 + draw.normal(0, 0.035) * frame[1]
    view = fit_view(joints, yaw, cam.pitch, tall, column, frame[0])
    canvas = Canvas(scene if persons else scene.copy(), np.zeros(frame, np.uint8))
    points = paint_person(canvas, person, joints, view, cam.light)
    layer = None
    if occluded:
        layer = find_occluder(knobs, (pid, camid, k), canvas.parts, view, cam, seen_only=seen_only)
        scene = scene * (1 - layer.alpha[..., None]) + layer.rgb
    crop = _crop_error(draw, frame)
    scene = cv2.warpAffine(scene, crop, frame[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    image = degrade(scene, cam, knobs.size, draw)
    full = _through(canvas.parts, crop, knobs.size)
    hidden = None if layer is None else _through(layer.mask.astype(np.uint8), crop, knobs.size) > 0
    visible = full if hidden is None else np.where(hidden, 0, full).astype(np.uint8)
    return Rendered(
        image=image,
        parts=visible,
        occluder=hidden,
        category=layer.category if layer else None,
        ratio=layer.ratio if layer else 0.0,
        visibility=part_visibility(full, visible),
        keypoints=_keypoints(points, crop, frame, knobs.size, hidden),
        yaw_deg=float(np.rad2deg(yaw)),
    )


def _crop_error(draw: np.random.Generator, frame: tuple[int, int]) -> np.ndarray:
    """[2, 3] affine map, frame -> crop: shift N(0, .02 W), N(0, .015 H) and zoom U(.95, 1.06) about the centre."""
    height, width = frame
    dx, dy, zoom = draw.normal(0, 0.02) * width, draw.normal(0, 0.015) * height, draw.uniform(0.95, 1.06)
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = (1 - zoom) * center + [dx, dy]
    return np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])


def _to_output(crop: np.ndarray, frame: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """`crop` followed by the scaling to the output size, [2, 3]; pixel centres at whole numbers."""
    sx, sy = size[1] / frame[1], size[0] / frame[0]
    scaled = crop * np.array([[sx], [sy]])
    scaled[:, 2] += [(sx - 1) / 2, (sy - 1) / 2]
    return scaled


def _through(labels: np.ndarray, crop: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map [h, w] through the crop, at the output size, nearest neighbour."""
    matrix = _to_output(crop, labels.shape, size)
    return cv2.warpAffine(labels, matrix, size[::-1], flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def _keypoints(points, crop, frame, size, hidden: np.ndarray | None) -> np.ndarray:
    """[17, 2] frame pixels -> [17, 3] output pixels and visibility."""
    matrix = _to_output(crop, frame, size)
    moved = (points - 0.5) @ matrix[:, :2].T + matrix[:, 2]
    x, y = np.round(moved).astype(int).T
    inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
    if hidden is not None:
        inside &= ~hidden[np.clip(y, 0, size[0] - 1), np.clip(x, 0, size[1] - 1)]
    return np.concatenate([moved, inside[:, None]], axis=1).astype(np.float32)
