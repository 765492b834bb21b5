"""Cameras: a background panorama, a light, a habit of view, and how the picture is degraded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from occplug.datasets.synthocc.randomness import CAMERA, rng
from occplug.datasets.synthocc.solid import Light

__all__ = ["Camera", "background", "camera", "degrade", "draw_yaw"]

_CROPS = 5  # width of the panorama, in frames
_GREY = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, eq=False)
class Camera:
    """What one camera does to every picture; the photometric numbers already carry the severity."""

    panorama: np.ndarray  # uint8 [H, 5 W, 3]
    light: Light
    pitch: float  # rad, looking down
    habit: float  # rad, preferred yaw of the people it sees
    gain: float
    gamma: float
    cast: tuple[float, float, float]
    saturation: float
    resolution: float  # share of the output height that the sensor resolves
    haze: float  # grey levels
    blur: float  # sigma, sensor pixels
    noise: float  # sigma, grey levels


@lru_cache(maxsize=256)
def camera(world_seed: int, number: int, severity: float, frame: tuple[int, int]) -> Camera:
    """Camera `number` (0, 1, ...) of a world, for a picture of `frame` = (height, width)."""
    draw = rng(world_seed, CAMERA, number)

    def scaled(low: float, high: float) -> float:
        return 1 + severity * (draw.uniform(low, high) - 1)

    return Camera(
        light=Light(draw.uniform(-1.1, 1.1), draw.uniform(0.45, 0.75)),
        pitch=draw.uniform(0.03, 0.30),
        habit=draw.uniform(-np.pi, np.pi),
        gain=scaled(0.55, 1.2),
        gamma=scaled(0.8, 1.3),
        cast=(scaled(0.82, 1.15), scaled(0.92, 1.06), scaled(0.8, 1.18)),
        saturation=scaled(0.55, 1.05),
        resolution=scaled(0.42, 0.9),
        haze=severity * draw.uniform(0, 26),
        blur=draw.uniform(0.3, 1.1),
        noise=draw.uniform(2, 8),
        panorama=_panorama(draw, number, frame),
    )


def _panorama(draw: np.random.Generator, number: int, frame: tuple[int, int]) -> np.ndarray:
    height, width = frame[0], frame[1] * _CROPS
    horizon = int(draw.uniform(0.28, 0.50) * height)
    wall = draw.uniform(85, 175) + draw.normal(0, 13, 3)
    ground = draw.uniform(75, 150) + draw.normal(0, 9, 3)
    picture = np.empty((height, width, 3), np.float32)
    picture[:horizon], picture[horizon:] = wall, ground
    # the kinds take turns, so that no two neighbours share one
    (_brick, _windows, _shop_front, _foliage)[number % 4](picture, horizon, wall, draw)
    _clutter(picture, horizon, draw)
    grid = draw.normal(0, 10, (7, 24, 1)) + draw.normal(0, 4, (7, 24, 3))
    picture += cv2.resize(grid.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    picture += draw.normal(0, 5, (height, width, 1)).astype(np.float32)
    return np.clip(cv2.GaussianBlur(picture, (0, 0), 0.8 * height / 192), 0, 255).astype(np.uint8)


def _brick(picture: np.ndarray, horizon: int, wall: np.ndarray, draw: np.random.Generator) -> None:
    row = max(4, round(len(picture) * draw.uniform(0.028, 0.05)))
    y, x = np.mgrid[:horizon, : picture.shape[1]]
    course = y // row
    brick = (x + (course % 2) * row) // (2 * row)
    tone = draw.normal(0, 9, (course.max() + 1, brick.max() + 1))[course, brick]
    joint = (y % row == 0) | ((x + (course % 2) * row) % (2 * row) == 0)
    picture[:horizon] += np.where(joint, draw.uniform(-35, 30), tone)[..., None]


def _windows(picture: np.ndarray, horizon: int, wall: np.ndarray, draw: np.random.Generator) -> None:
    size = len(picture)
    width, height = draw.uniform(0.1, 0.2, 2) * size
    glass = tuple((draw.uniform(50, 200) + draw.normal(0, 14, 3) + [-8, 0, 10]).tolist())
    step = width * draw.uniform(1.4, 2.2)
    for left in np.arange(draw.uniform(0, step), picture.shape[1], step):
        for top in np.arange(0.02 * size, horizon - 0.06 * size, height * 1.35):
            corner, opposite = (int(left), int(top)), (int(left + width), int(min(top + height, horizon - 3)))
            cv2.rectangle(picture, corner, opposite, glass, -1)
            cv2.rectangle(picture, corner, opposite, tuple((0.6 * wall).tolist()), max(1, size // 128))


def _shop_front(picture: np.ndarray, horizon: int, wall: np.ndarray, draw: np.random.Generator) -> None:
    size = len(picture)
    left = 0.0
    while left < picture.shape[1]:
        width = draw.uniform(0.3, 0.6) * size
        inside = tuple((draw.uniform(35, 190) + draw.normal(0, 20, 3)).tolist())
        corner, opposite = (int(left + 3), int(0.12 * size)), (int(left + width - 5), horizon - int(0.03 * size))
        cv2.rectangle(picture, corner, opposite, inside, -1)
        cv2.rectangle(picture, corner, opposite, tuple((0.5 * wall).tolist()), max(1, size // 96))
        awning = tuple(draw.uniform(40, 200, 3).tolist())
        cv2.rectangle(picture, (int(left), int(0.05 * size)), (int(left + width), int(0.11 * size)), awning, -1)
        left += width


def _foliage(picture: np.ndarray, horizon: int, wall: np.ndarray, draw: np.random.Generator) -> None:
    size = len(picture)
    green = np.array([55.0, 85.0, 45.0]) + draw.normal(0, 10, 3)
    for x, y, a, b, tone in draw.random((int(draw.integers(60, 130)), 5)):
        color = tuple((green * (0.6 + 0.8 * tone)).tolist())
        axes = (int((0.02 + 0.05 * a) * size), int((0.02 + 0.05 * b) * size))
        center = (int(x * picture.shape[1]), int(y * (horizon + 0.03 * size)))
        cv2.ellipse(picture, center, axes, 0, 0, 360, color, -1, cv2.LINE_AA)


def _clutter(picture: np.ndarray, horizon: int, draw: np.random.Generator) -> None:
    size, width = picture.shape[:2]
    for _ in range(int(draw.integers(8, 23))):
        a, b = (draw.uniform(0.04, 0.16, 2) * size).astype(int).tolist()
        x, y = int(draw.uniform(0, width)), int(np.clip(draw.normal(horizon, 0.2 * size), 0, size))
        shade = draw.uniform(50, 190) + draw.normal(0, 24, 3)
        color = tuple(np.clip(shade, 10, 245).tolist())
        if draw.random() < 0.5:
            cv2.rectangle(picture, (x - a, y - b), (x + a, y + b), color, -1)
        else:
            cv2.ellipse(picture, (x, y), (a, b), 0, 0, 360, color, -1, cv2.LINE_AA)


def background(cam: Camera, width: int, draw: np.random.Generator) -> np.ndarray:
    """A crop of the panorama, mirrored half of the time: float32 [H, width, 3]."""
    left, mirror = int(draw.integers(cam.panorama.shape[1] - width + 1)), draw.random() < 0.5
    crop = cam.panorama[:, left : left + width]
    return (crop[:, ::-1] if mirror else crop).astype(np.float32)


def draw_yaw(cam: Camera, draw: np.random.Generator) -> float:
    """A person's yaw in (-pi, pi]: each camera prefers a view but shows all."""
    spread, turned, other, any_way = draw.normal(0, 0.5), draw.random(), draw.random(), draw.uniform(-np.pi, np.pi)
    yaw = cam.habit + spread + np.pi * (turned < 0.35) + any_way * (other < 0.2)
    return float(np.pi - (np.pi - yaw) % (2 * np.pi))


def degrade(picture: np.ndarray, cam: Camera, size: tuple[int, int], draw: np.random.Generator) -> np.ndarray:
    """Haze, gain, cast, saturation, gamma, sensor resolution, noise, blur, and up to the output size.

    Args:
        picture: float32 [H, W, 3], 0 to 255.   size: output height and width.
    Returns: uint8 [height, width, 3].
    """
    gain, saturation = cam.gain * draw.uniform(0.85, 1.15), cam.saturation * draw.uniform(0.9, 1.1)
    resolution = float(np.clip(cam.resolution * draw.uniform(0.8, 1.1), 0.2, 1))
    # the first four steps are linear: one 3x4 matrix
    tint = np.diag(gain * np.array(cam.cast))
    matrix = (saturation * np.eye(3) + (1 - saturation) * np.tile(_GREY, (3, 1))) @ tint
    offset = matrix @ np.full(3, cam.haze)
    full = np.concatenate([matrix * (1 - cam.haze / 255), offset[:, None]], axis=1).astype(np.float32)
    picture = np.clip(cv2.transform(picture, full / 255), 0, 1)
    picture = 255 * cv2.pow(picture, cam.gamma)
    sensor = (max(8, round(size[1] * resolution)), max(16, round(size[0] * resolution)))
    picture = cv2.resize(picture, sensor, interpolation=cv2.INTER_AREA)
    picture += np.float32(cam.noise) * draw.standard_normal(picture.shape, dtype=np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), cam.blur)
    picture = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)
