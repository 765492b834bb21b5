"""What stands in front: a category, a cut-out of it, and its place in the frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from occplug.datasets.synthocc.body import paint_person
from occplug.datasets.synthocc.camera import Camera
from occplug.datasets.synthocc.knobs import CATEGORIES, Knobs
from occplug.datasets.synthocc.persona import persona
from occplug.datasets.synthocc.pose import View, draw_pose, skeleton
from occplug.datasets.synthocc.randomness import OCCLUDER, PASSERS_BY, pick, rng
from occplug.datasets.synthocc.shapes import SHAPES
from occplug.datasets.synthocc.solid import Canvas, Light

__all__ = ["Layer", "cutout", "find_occluder"]

_ATTEMPTS = 24
_PEOPLE = 100_000  # personas among which passers-by are drawn


@dataclass(frozen=True)
class Layer:
    """An occluder laid over the frame."""

    category: str
    rgb: np.ndarray  # float32 [H, W, 3], premultiplied
    alpha: np.ndarray  # float32 [H, W] in [0, 1]
    ratio: float  # share of the person's pixels under alpha > .5

    @property
    def mask(self) -> np.ndarray:
        """bool [H, W]: where it hides what is behind."""
        return self.alpha > 0.5


def find_occluder(
    knobs: Knobs, key: tuple[int, int, int], parts: np.ndarray, view: View, cam: Camera, *, seen_only: bool
) -> Layer:
    """Draw occluders and places until one hides a share of the person that lies in `knobs.ratio`.

    Args:
        key: (pid, camid, k) of the image.   parts: uint8 [H, W] of the person alone.   view: of the person.
        seen_only: leave out the held-out categories.
    """
    excluded = knobs.heldout_occluders if seen_only else ()
    table = {name: prior for name, prior in CATEGORIES.items() if name not in excluded}
    body = parts > 0
    low, high = knobs.ratio
    for attempt in range(_ATTEMPTS):
        draw = rng(knobs.seed, OCCLUDER, *key, attempt)
        category = pick(draw, table)
        if category == "person":
            rgb, alpha = _passer_by(knobs, draw, view, cam, body.shape)
        else:
            rgb, alpha = _placed(category, draw, cam.light, body)
        ratio = _hidden(body, alpha)
        if low <= ratio <= high:
            return Layer(category, rgb, alpha, ratio)
    draw = rng(knobs.seed, OCCLUDER, *key, _ATTEMPTS)
    return _fallback_wall(draw, cam.light, body, (low + high) / 2)


def _hidden(body: np.ndarray, alpha: np.ndarray) -> float:
    return float(np.count_nonzero(body & (alpha > 0.5)) / max(int(np.count_nonzero(body)), 1))


def _drawn(category: str, draw: np.random.Generator, light: Light, height: int) -> np.ndarray:
    """A cut-out for a frame of `height` pixels: sizes x U(.8, 1.15), mirrored half of the time; uint8 [h, w, 4]."""
    size, mirror = height * draw.uniform(0.8, 1.15), draw.random() < 0.5
    picture = SHAPES[category](draw, size, -light.azimuth if mirror else light.azimuth)
    return np.ascontiguousarray(picture[:, ::-1]) if mirror else picture


def _corner(category: str, draw: np.random.Generator, cut: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """Column and row, in the frame, of the top left pixel of a cut-out of size `cut`."""
    (h, w), (height, width) = cut, frame
    x = draw.uniform(0.1, 0.9) * width - w / 2
    y = draw.uniform(0.97, 1.06) * height - h
    if category == "car":  # only part of it is in the frame
        x = draw.uniform(0.2 * width - w, 0.8 * width)
        y = draw.uniform(0.98, 1.10) * height - h
    elif category == "pole":
        x, y = draw.uniform(0.3, 0.7) * width - w / 2, -0.02 * height
    elif category in ("bin", "suitcase"):  # small: elsewhere it would rarely hide enough
        x = draw.uniform(0.3, 0.7) * width - w / 2
    elif category == "umbrella":
        x, y = draw.uniform(0.25, 0.75) * width - w / 2, draw.uniform(-0.12, 0.03) * height
    elif category == "sign" and draw.random() < 0.5:
        y = draw.uniform(0.35, 0.6) * height - h / 2
    return round(x), round(y)


def _placed(category: str, draw: np.random.Generator, light: Light, body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rgb, alpha) of a drawn category, premultiplied, on a frame of the shape of `body`."""
    picture = _drawn(category, draw, light, body.shape[0])
    if category == "wall":
        return _wall_layer(picture, draw.random() < 0.5, draw.uniform(0.12, 0.26) * body.shape[0], body.shape)
    return _on_frame(picture, *_corner(category, draw, picture.shape[:2], body.shape), body.shape)


def _wall_layer(picture: np.ndarray, from_left: bool, reach: float, frame: tuple[int, int]):
    """A wall that enters the frame from one side and ends `reach` pixels past it."""
    picture = picture if from_left else np.ascontiguousarray(picture[:, ::-1])
    x = round(reach) - picture.shape[1] if from_left else frame[1] - round(reach)
    return _on_frame(picture, x, -2, frame)


def _fallback_wall(draw: np.random.Generator, light: Light, body: np.ndarray, share: float) -> Layer:
    """A wall that hides the wanted share of the person; no other occluder fitted the range."""
    columns = np.cumsum(body.sum(axis=0))
    reach = int(np.searchsorted(columns, share * columns[-1])) + 1
    picture = SHAPES["wall"](draw, body.shape[0], light.azimuth)
    picture = cv2.resize(picture, (max(reach, 4), body.shape[0] + 4), interpolation=cv2.INTER_AREA)
    rgb, alpha = _wall_layer(picture, True, reach, body.shape)
    return Layer("wall", rgb, alpha, _hidden(body, alpha))


def _on_frame(picture: np.ndarray, x: int, y: int, frame: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Lay `picture` (uint8 [h, w, 4]) with its corner at (x, y) on an empty frame."""
    layer = np.zeros((*frame, 4), np.float32)
    h, w = picture.shape[:2]
    top, bottom, left, right = max(y, 0), min(y + h, frame[0]), max(x, 0), min(x + w, frame[1])
    if top < bottom and left < right:
        layer[top:bottom, left:right] = picture[top - y : bottom - y, left - x : right - x]
    return layer[..., :3], layer[..., 3] / np.float32(255)


def _passer_by(knobs: Knobs, draw: np.random.Generator, view: View, cam: Camera, frame: tuple[int, int]):
    """(rgb, alpha) of somebody who walks by in front, .95 to 1.15 as tall, shifted by .18 to .42 of the width."""
    other = persona(knobs.seed + PASSERS_BY, int(draw.integers(_PEOPLE)), knobs.group_size)
    pose, yaw, size = draw_pose(draw), draw.uniform(-np.pi, np.pi), draw.uniform(0.95, 1.15)
    shift = draw.uniform(0.18, 0.42) * frame[1] * (1 if draw.random() < 0.5 else -1)
    row = view.row + draw.uniform(0, 0.04) * frame[0]  # nearer, so lower in the frame
    canvas = _clear(frame)
    nearer = View(yaw, view.pitch, view.scale * size, view.column + shift, row)
    paint_person(canvas, other, skeleton(pose, other.width), nearer, cam.light)
    return canvas.rgb, canvas.alpha


def _clear(frame: tuple[int, int]) -> Canvas:
    return Canvas(np.zeros((*frame, 3), np.float32), np.zeros(frame, np.uint8), np.zeros(frame, np.float32))


def cutout(category: str, draw: np.random.Generator, world_seed: int, group_size: int, height: int) -> np.ndarray:
    """One occluder alone, for a frame of `height` pixels: uint8 [h, w, 4], RGBA with straight alpha."""
    light = Light(draw.uniform(-1.1, 1.1), draw.uniform(0.45, 0.75))
    if category != "person":
        picture = _drawn(category, draw, light, height)[:height].astype(np.float32)
    else:
        canvas, other = _clear((height, height)), persona(world_seed, int(draw.integers(_PEOPLE)), group_size)
        view = View(draw.uniform(-np.pi, np.pi), draw.uniform(0.03, 0.3), 0.9 * height, height / 2, 0.96 * height)
        paint_person(canvas, other, skeleton(draw_pose(draw), other.width), view, light)
        assert canvas.alpha is not None  # `_clear` gives it
        picture = np.concatenate([canvas.rgb, 255 * canvas.alpha[..., None]], axis=2)
    rows, columns = (np.flatnonzero((picture[..., 3] > 0).any(axis=axis)) for axis in (1, 0))
    picture = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    alpha = picture[..., 3:]
    color = np.where(alpha > 0, picture[..., :3] * 255 / np.maximum(alpha, 1), 0)
    return np.clip(np.concatenate([color, alpha], axis=2) + 0.5, 0, 255).astype(np.uint8)
