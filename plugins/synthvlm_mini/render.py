"""Draw a scene: plain geometry by signed distance (negative inside), antialiased, at any size. Only NumPy."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from synthvlm_mini.scene import BACKGROUNDS, COLORS, Scene, places

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Field = NDArray[np.floating[Any]]

# All lengths are shares of the picture's side: x runs to the right, y down.
_RADIUS = {"large": 0.15, "small": 0.085}
_ROOM = {1: 1.25, 2: 1.1, 3: 1.0}  # fewer things are drawn larger
_OFFSET = {1: 0.27, 2: 0.27, 3: 0.32}  # of the outer places from the centre
_DIRECTION = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1), "middle": (0, 0)}


def _star(points: int, outer: float, inner: float) -> tuple[tuple[float, float], ...]:
    """Return the vertices of a star, tip up, radii outer and inner in turn."""
    turns = (math.pi * k / points for k in range(2 * points))
    radii = (outer, inner) * points
    return tuple((r * math.sin(t), -r * math.cos(t)) for r, t in zip(radii, turns, strict=True))


_ARM = 0.34
# In radii, in order round the outline. A circle is no polygon and is drawn by itself.
_OUTLINES = {
    "square": ((-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)),
    "diamond": ((0.0, -1.15), (0.92, 0.0), (0.0, 1.15), (-0.92, 0.0)),
    "triangle": ((0.0, -1.095), (1.06, 0.74), (-1.06, 0.74)),
    "cross": (
        *((-_ARM, -1.0), (_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM), (1.0, _ARM), (_ARM, _ARM)),
        *((_ARM, 1.0), (-_ARM, 1.0), (-_ARM, _ARM), (-1.0, _ARM), (-1.0, -_ARM), (-_ARM, -_ARM)),
    ),
    "star": _star(5, 1.1, 1.1 * 0.45),
}


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Field, Field]:
    """Return the x and the y of every pixel's centre."""
    import numpy as np

    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(centres, centres)
    x.flags.writeable = y.flags.writeable = False  # shared by all callers
    return x, y


def distance_to_polygon(x: Field, y: Field, vertices: NDArray[np.floating]) -> Field:
    """Return the signed distance of every point to a simple polygon, convex or not: negative inside."""
    import numpy as np

    nearest = np.full(x.shape, np.inf, np.float32)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        px, py = x - ax, y - ay
        along = np.clip((px * ex + py * ey) / (ex * ex + ey * ey), 0, 1)
        np.minimum(nearest, np.hypot(px - along * ex, py - along * ey), out=nearest)
        # A ray to the right crosses this edge where the edge spans the point's height and the point lies to its left:
        # an odd number of crossings means inside.
        spans = (py >= 0) != (y >= by)
        inside ^= spans & ((px * ey < py * ex) if ey > 0 else (px * ey > py * ex))
    return np.where(inside, -nearest, nearest)


def _distance(shape: str, x: Field, y: Field, radius: float) -> Field:
    import numpy as np

    if shape == "circle":
        return np.hypot(x, y) - np.float32(radius)
    return distance_to_polygon(x, y, np.asarray(_OUTLINES[shape], np.float32) * np.float32(radius))


def _pattern(name: str, x: Field, y: Field, phase: float, size: int) -> Field:
    """Return how much of the pattern's dark colour each pixel takes."""
    import numpy as np

    if name == "striped":
        period = 0.16
        return _cover((np.abs(((x + y) / 1.414 / period + phase) % 1 - 0.5) - 0.22) * period, size)
    if name == "dotted":
        period = 0.15
        return _cover(np.hypot((x / period + phase) % 1 - 0.5, (y / period + phase * 0.7) % 1 - 0.5) * period - 0.035, size)
    if name == "checkered":
        period = 0.25
        return (((x / period + phase) % 1 > 0.5) ^ ((y / period + phase) % 1 > 0.5)).astype(np.float32)
    return np.zeros_like(x)


def _cover(distance: Field, size: int) -> Field:
    """Return the share of each pixel that lies inside: one pixel wide, the edge is a ramp."""
    import numpy as np

    return np.clip(0.5 - distance * size, 0, 1)


def _ink(style: str, distance: Field, x: Field, y: Field, rng: np.random.Generator, size: int) -> Field:
    """Return how much of the thing's colour each pixel takes."""
    import numpy as np

    if style == "flat":
        return _cover(distance, size)
    if style == "outline":
        width = 0.016
        return _cover(np.abs(distance + width * 0.6) - width, size)
    # Crayon: a wobbly edge, filled with slanting strokes, and pressed harder along the edge.
    phases = rng.uniform(0, 2 * math.pi, 4)
    distance = distance + 0.006 * np.sin(x * 55 + phases[0]) * np.sin(y * 50 + phases[1])
    strokes = 0.5 + 0.5 * np.sin((x * 0.8 - y) * 2 * math.pi / 0.062 + phases[2] + 1.2 * np.sin(x * 18 + phases[3]))
    edge = _cover(np.abs(distance + 0.012) - 0.012, size)
    return _cover(distance, size) * np.maximum(0.30 + 0.70 * np.clip(strokes * 1.6 - 0.2, 0, 1), edge)


def render(scene: Scene, size: int = 64, seed: int | np.random.Generator = 0) -> NDArray[np.uint8]:
    """Draw a scene and return its pixels, (size, size, 3), RGB.

    The seed moves what captions do not tell: places, sizes and colours a little, the pattern's phase, the crayon's strokes.
    Raises ValueError for a scene that is not complete.
    """
    import numpy as np

    if not scene.complete:
        raise ValueError("a scene with unknown attributes cannot be drawn")
    rng = np.random.default_rng(seed)
    x, y = _grid(size)
    paper = np.array(BACKGROUNDS[str(scene.background)], np.float32) + rng.uniform(-4, 4, 3)
    shade = paper * (0.84 if scene.background == "gray" else 0.80)
    dark = _pattern(str(scene.pattern), x, y, rng.uniform(0, 1), size)[..., None]
    pixels = paper * (1 - dark) + shade * dark
    count = len(scene.things)
    for thing, place in zip(scene.things, places(scene), strict=True):
        radius = _RADIUS[str(thing.size)] * _ROOM[count] * rng.uniform(0.95, 1.05)
        cx, cy = (0.5 + _OFFSET[count] * step + rng.uniform(-0.025, 0.025) for step in _DIRECTION[place])
        color = np.clip(np.array(COLORS[str(thing.color)]) + rng.uniform(-10, 10, 3), 0, 255)
        distance = _distance(thing.shape, x - np.float32(cx), y - np.float32(cy), radius)
        ink = _ink(str(scene.style), distance, x, y, rng, size)[..., None]
        pixels = pixels * (1 - ink) + color * ink
    if scene.style == "crayon":
        pixels = pixels + rng.normal(0, 5, (size, size, 1))  # the paper's grain
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
