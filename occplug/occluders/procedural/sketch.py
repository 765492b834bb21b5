"""A drawing surface for cut-outs: shapes with shading and texture, four times as large as the result.

Coordinates are (x, y) in units of the drawer's choice, y down. A mask is float32 [h, w] in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["Sketch", "varied"]

OVERSAMPLING = 4
_SHIFT = 4  # cv2 takes coordinates with so many binary places


def varied(draw: np.random.Generator, colour, spread: float = 6) -> np.ndarray:
    """`colour` (RGB), made lighter or darker and a little different."""
    return np.clip(np.array(colour, np.float32) * draw.uniform(0.8, 1.2) + draw.normal(0, spread, 3), 8, 246)


class Sketch:
    """An empty surface.

    Args:
        width, height: in the drawer's units.
        side: longest side of the result in pixels.
        draw: for texture.
    """

    def __init__(self, width: float, height: float, side: int, draw: np.random.Generator):
        self.scale = OVERSAMPLING * side / max(width, height)
        self.shape = (max(8, round(height * self.scale)), max(8, round(width * self.scale)))
        self.colour: np.ndarray = np.zeros((*self.shape, 3), np.float32)  # premultiplied
        self.alpha: np.ndarray = np.zeros(self.shape, np.float32)
        self.draw = draw
        azimuth = draw.uniform(-1, 1)  # of the light, from the left or the right, always from above
        light = np.array([0.6 * azimuth, -0.62, 0.7])
        self.light = light / np.linalg.norm(light)

    # ---- masks

    def _points(self, points) -> np.ndarray:
        return np.round(np.asarray(points, np.float64) * self.scale * 2**_SHIFT).astype(np.int32)

    def polygon(self, points) -> np.ndarray:
        """The inside of straight lines through `points` [P, 2] (x, y) in units: mask [rows, columns] in [0, 1]."""
        mask = np.zeros(self.shape, np.uint8)
        cv2.fillPoly(mask, [self._points(points)], 255, cv2.LINE_AA, _SHIFT)
        return mask.astype(np.float32) / 255

    def blob(self, points) -> np.ndarray:
        """A closed smooth curve through `points`."""
        return self.polygon(_smooth(np.asarray(points, np.float64), closed=True))

    def stroke(self, points, width: float, smooth: bool = False, closed: bool = False) -> np.ndarray:
        """A line with round ends, `width` in units."""
        mask = np.zeros(self.shape, np.uint8)
        points = np.asarray(points, np.float64)
        points = _smooth(points, closed) if smooth else points
        thickness = max(1, round(width * self.scale))
        cv2.polylines(mask, [self._points(points)], closed, 255, thickness, cv2.LINE_AA, _SHIFT)
        return mask.astype(np.float32) / 255

    def limb(self, points, widths) -> np.ndarray:
        """A tapering limb through `points`, as wide as `widths` there."""
        mask = np.zeros(self.shape, np.float32)
        for (p, q), (a, b) in zip(zip(points[:-1], points[1:]), zip(widths[:-1], widths[1:])):
            p, q = np.asarray(p, float), np.asarray(q, float)
            along = (q - p) / max(np.linalg.norm(q - p), 1e-6)
            across = np.array([-along[1], along[0]]) / 2
            mask = np.maximum(mask, self.polygon([p + a * across, q + b * across, q - b * across, p - a * across]))
            mask = np.maximum(mask, self.disc(p[0], p[1], a / 2))
        x, y = points[-1]
        return np.maximum(mask, self.disc(x, y, widths[-1] / 2))

    def disc(self, x: float, y: float, rx: float, ry: float | None = None, turn: float = 0) -> np.ndarray:
        """An ellipse, turned by `turn` degrees."""
        mask = np.zeros(self.shape, np.uint8)
        centre = tuple(int(v) for v in self._points((x, y)))
        axes = tuple(max(1, int(v)) for v in self._points((rx, rx if ry is None else ry)))
        cv2.ellipse(mask, centre, axes, turn, 0, 360, 255, -1, cv2.LINE_AA, _SHIFT)
        return mask.astype(np.float32) / 255

    def box(self, x0: float, y0: float, x1: float, y1: float, corner: float = 0) -> np.ndarray:
        """A rectangle with rounded corners of radius `corner`."""
        if not corner:
            return self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        a = np.linspace(0, np.pi / 2, 7)
        c, s = corner * np.cos(a), corner * np.sin(a)
        right, left, top, bottom = x1 - corner, x0 + corner, y0 + corner, y1 - corner
        xs = np.concatenate([right + c, left - s, left - c, right + s])
        ys = np.concatenate([bottom + s, bottom + c, top - s, top - c])
        return self.polygon(np.stack([xs, ys], 1))

    # ---- fields

    def grid(self) -> tuple[np.ndarray, np.ndarray]:
        """x [1, w] and y [h, 1] of every pixel, in units."""
        y, x = (np.arange(n, dtype=np.float32) / self.scale for n in self.shape)
        return x[None], y[:, None]

    def noise(self, size: float) -> np.ndarray:
        """Smooth noise of about unit spread, with bumps `size` units large."""
        h, w = (max(2, round(n / (size * self.scale)) + 2) for n in self.shape)
        coarse = self.draw.normal(0, 1, (h, w)).astype(np.float32)
        return cv2.resize(coarse, self.shape[::-1], interpolation=cv2.INTER_CUBIC)

    def relief(self, mask: np.ndarray, round_: float) -> np.ndarray:
        """Light on `mask`, [h, w], as on a body that is rounded over `round_` units at its border."""
        sigma = max(0.5, round_ * self.scale / 2)
        height = cv2.GaussianBlur(mask, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        slope = 2.6 * sigma
        gx = slope * cv2.Sobel(height, cv2.CV_32F, 1, 0, scale=1 / 8)
        gy = slope * cv2.Sobel(height, cv2.CV_32F, 0, 1, scale=1 / 8)
        facing = (-gx * self.light[0] - gy * self.light[1] + self.light[2]) / np.sqrt(1 + gx**2 + gy**2)
        return 0.42 + 0.82 * np.maximum(facing, 0)

    # ---- painting

    def paint(self, mask: np.ndarray, colour, round_: float = 0, grain: float = 0.03, opacity: float = 1) -> None:
        """Lay `colour` (RGB, or [h, w, 3]) over `mask`.

        Args:
            round_: the border region that is shaded as round, in units; 0: flat.
            grain: spread of the texture, as a share of the colour.
        """
        tone: np.ndarray = np.ones(self.shape, np.float32)
        if round_:
            tone = tone * self.relief(mask, round_)
        if grain:
            size = 3 / self.scale * OVERSAMPLING
            tone = tone * (1 + grain * (0.7 * self.noise(size) + 0.7 * self.noise(8 * size)))
        painted = np.clip(np.asarray(colour, np.float32) * tone[..., None], 0, 255)
        share = (mask * opacity)[..., None]
        self.colour = self.colour * (1 - share) + painted * share
        self.alpha = self.alpha * (1 - share[..., 0]) + share[..., 0]

    def shadow(self, mask: np.ndarray, depth: float) -> None:
        """Darken what is painted already under `mask`, by `depth` in [0, 1]."""
        self.colour *= (1 - depth * mask)[..., None]

    def fade(self, top: float = 1.08, bottom: float = 0.78) -> None:
        """Brighter above, darker below, as things in the street are."""
        self.colour = np.minimum(self.colour * np.linspace(top, bottom, self.shape[0])[:, None, None], 255)

    def turned(self, degrees: float) -> None:
        """Turn all that is painted about the centre; parts outside are lost."""
        h, w = self.shape
        matrix = cv2.getRotationMatrix2D((w / 2, h / 2), degrees, 1)
        self.colour, self.alpha = (cv2.warpAffine(plane, matrix, (w, h)) for plane in (self.colour, self.alpha))

    def rgba(self) -> np.ndarray:
        """uint8 [h, w, 4], colours not premultiplied, at the result's size."""
        size = tuple(max(2, round(n / OVERSAMPLING)) for n in self.shape[::-1])
        alpha = cv2.resize(self.alpha, size, interpolation=cv2.INTER_AREA)
        colour = cv2.resize(self.colour, size, interpolation=cv2.INTER_AREA) / np.maximum(alpha, 1e-3)[..., None]
        # 64 levels, which nobody can tell from 256, make the files a third smaller
        colour = np.clip(4 * np.rint(colour / 4), 0, 255)
        return np.rint(np.dstack([colour, np.clip(255 * alpha, 0, 255)])).astype(np.uint8)


def _smooth(points: np.ndarray, closed: bool, steps: int = 12) -> np.ndarray:
    """Catmull-Rom curve through `points` [n, 2]."""
    before, after = (np.roll(points, 1, 0), np.roll(points, -1, 0))
    if not closed:
        before[0], after[-1] = points[0], points[-1]
    beyond = np.roll(after, -1, 0)
    if not closed:
        beyond[-2:] = points[-1]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None] for p in (before, points, after, beyond))
    curve = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    curve = curve if closed else curve[:-1]
    flat = curve.reshape(-1, 2)
    return flat if closed else np.concatenate([flat, points[-1:]])
