"""Round tapered bodies between two projected points: the one shape everything human is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

__all__ = ["Canvas", "Light", "Solid", "Surface", "paint"]

_STEPS = 64  # of the radius table along the axis
_GRID = np.linspace(0, 1, _STEPS)
_HALF, _ONE, _ZERO = np.float32(0.5), np.float32(1), np.float32(0)


@dataclass
class Canvas:
    """A picture being painted."""

    rgb: np.ndarray  # float32 [H, W, 3], 0 to 255; premultiplied where `alpha` is given
    parts: np.ndarray  # uint8 [H, W]
    alpha: np.ndarray | None = None  # float32 [H, W] in [0, 1]; None: the picture is opaque


@dataclass(frozen=True)
class Light:
    """A directional light over an ambient floor."""

    azimuth: float  # rad, 0 from the camera, positive from the image's right
    ambient: float  # in [0, 1]


class Surface:
    """The visible side of a solid on the pixels of its bounding box; all arrays [h, w] float32."""

    def __init__(self, t: np.ndarray, s: np.ndarray, coverage: np.ndarray, yaw: float):
        self.t = t  # position along the axis, 0 to 1
        self.s = s  # signed distance across / radius, -1 to 1, positive on the image's right
        self.coverage = coverage  # anti-aliased, 0 to 1; a texture may lower it
        self.yaw = yaw

    @cached_property
    def towards(self) -> np.ndarray:
        """Cosine of the surface azimuth as the camera sees it."""
        return np.sqrt(1 - self.s * self.s)

    @cached_property
    def front(self) -> np.ndarray:
        """Cosine of the azimuth in the body frame: 1 in front, -1 at the back."""
        return self.towards * np.float32(np.cos(self.yaw)) + self.s * np.float32(np.sin(self.yaw))

    @cached_property
    def side(self) -> np.ndarray:
        """Sine of the azimuth in the body frame: 1 on the person's left, -1 on the right."""
        return self.s * np.float32(np.cos(self.yaw)) - self.towards * np.float32(np.sin(self.yaw))

    @cached_property
    def azimuth(self) -> np.ndarray:
        """asin(s) - yaw, rad in the body frame."""
        return np.arcsin(self.s) - np.float32(self.yaw)


Texture = Callable[[Surface], np.ndarray]  # -> [3] or [h, w, 3] RGB before shading
Coding = Callable[[Surface], np.ndarray]  # -> [h, w] part codes


@dataclass
class Solid:
    """A tapered body from `start` to `end` (pixels) with a profile of radii (pixels) along its axis."""

    start: np.ndarray
    end: np.ndarray
    radii: np.ndarray
    order: float  # painted from low to high
    code: int | Coding
    texture: np.ndarray | Texture
    caps: tuple[float, float] = (1.0, 1.0)  # length of the rounded ends, in radii
    yaw: float = 0.0
    folds: tuple[float, float] | None = field(default=None)  # phases of a garment's folds


def _limit(x: np.ndarray) -> np.ndarray:
    """`x` clipped to [0, 1] in place; on small arrays four times faster than np.clip."""
    np.minimum(x, _ONE, out=x)
    return np.maximum(x, _ZERO, out=x)


def _radii(profile: np.ndarray) -> np.ndarray:
    """The profile as a table of _STEPS radii, float32."""
    if len(profile) == 1:
        return np.full(_STEPS, profile[0], np.float32)
    return np.interp(_GRID * (len(profile) - 1), np.arange(len(profile)), profile).astype(np.float32)


def _surface(solid: Solid, shape: tuple[int, int]) -> tuple[tuple[slice, slice], Surface] | None:
    """The pixels a solid covers in a frame of `shape`; None if it lies outside."""
    px, py = map(float, solid.start)
    dx, dy = float(solid.end[0]) - px, float(solid.end[1]) - py
    reach = float(solid.radii.max()) + 1
    x0, x1 = max(int(px + min(dx, 0) - reach), 0), min(int(px + max(dx, 0) + reach) + 2, shape[1])
    y0, y1 = max(int(py + min(dy, 0) - reach), 0), min(int(py + max(dy, 0) + reach) + 2, shape[0])
    if x0 >= x1 or y0 >= y1:
        return None
    length = float(np.hypot(dx, dy))
    ux, uy = (dx / length, dy / length) if length > 1 else (0.0, 1.0)  # seen end on: any axis will do
    length = max(length, 1.0)
    nx, ny = (-uy, ux) if uy < 0 else (uy, -ux)  # the normal points to the image's right
    xs = np.arange(x0, x1, dtype=np.float32) + np.float32(0.5 - px)
    ys = np.arange(y0, y1, dtype=np.float32)[:, None] + np.float32(0.5 - py)
    along = ys * np.float32(uy) + xs * np.float32(ux)
    across = ys * np.float32(ny) + xs * np.float32(nx)
    t = _limit(along * np.float32(1 / length))
    radius = _radii(solid.radii)[(t * np.float32(_STEPS - 1)).astype(np.intp)]
    before, after = np.float32(-1 / solid.caps[0]), np.float32(1 / solid.caps[1])
    beyond = np.maximum(along * before, (along - np.float32(length)) * after)
    np.maximum(beyond, _ZERO, out=beyond)
    coverage = _limit(_HALF + radius - np.sqrt(across * across + beyond * beyond))
    s = across / radius
    np.minimum(s, _ONE, out=s)
    np.maximum(s, -_ONE, out=s)
    return (slice(y0, y1), slice(x0, x1)), Surface(t, s, coverage, solid.yaw)


def paint(canvas: Canvas, solid: Solid, light: Light) -> None:
    """Paint `solid` over `canvas`; part codes change where it covers at least half of a pixel."""
    painted = _surface(solid, canvas.parts.shape)
    if painted is None:
        return
    window, surface = painted
    color = solid.texture(surface) if callable(solid.texture) else solid.texture
    direct = 1 - light.ambient
    shade = surface.towards * np.float32(direct * np.cos(light.azimuth))
    shade += surface.s * np.float32(direct * np.sin(light.azimuth))
    np.maximum(shade, _ZERO, out=shade)
    shade += np.float32(light.ambient)
    if solid.folds is not None:
        first, second = solid.folds
        shade *= 1 + np.float32(0.07) * np.sin(9 * surface.t + 2.5 * surface.s + np.float32(first))
        shade *= 1 + np.float32(0.05) * np.sin(17 * surface.t - 4 * surface.s + np.float32(second))
    cover = surface.coverage[..., None]
    region = canvas.rgb[window]
    region += cover * (shade[..., None] * color - region)
    if canvas.alpha is not None:
        region = canvas.alpha[window]
        region += surface.coverage * (1 - region)
    code = solid.code(surface) if callable(solid.code) else solid.code
    np.copyto(canvas.parts[window], np.asarray(code, np.uint8), where=surface.coverage > 0.5)
