"""Draw a scene of the picture book: its setting, then its things, in its style."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from synthvlm_mini.book.compose import Composition, Placement, compose, layout_boxes, masks
from synthvlm_mini.book.outlines import Points, dense
from synthvlm_mini.book.scene import Scene
from synthvlm_mini.book.settings import Color, Mark, dark, paint
from synthvlm_mini.book.things import Part, drawing

__all__ = ["compose", "draw", "layout_boxes", "masks", "render"]

_WHITE: Color = (255, 255, 255)
_BLACK: Color = (0, 0, 0)
_FINE = 3  # drawn at so many times the size, then reduced
_DAY_PAPER: Color = (251, 248, 238)
_NIGHT_PAPER: Color = (158, 164, 200)
_NIGHT_WAX: Color = (150, 158, 204)


def render(scene: Scene, size: int = 128, seed: int | np.random.Generator = 0) -> NDArray[np.uint8]:
    """Draw a scene and return its pixels, (size, size, 3), RGB.

    The seed moves what captions do not tell: places, sizes and colours a little, mirror images, the shapes of hills, strokes.
    Raises ValueError for a scene that is not complete.
    """
    return draw(compose(scene, np.random.default_rng(seed)), size)


def draw(composition: Composition, size: int = 128) -> NDArray[np.uint8]:
    """Draw a scene whose things are placed and return its pixels, (size, size, 3), RGB."""
    scene = composition.scene
    pencil = _PENCILS[str(scene.style)](composition, size)
    sky, marks = paint(str(scene.setting), scene.time, np.random.default_rng(composition.seed))
    pencil.prime(sky)
    for mark in marks:
        pencil.mark(mark)
    for i in composition.order:
        pencil.thing(composition.placements[i])
    return pencil.finished()


def _mix(color: Color, other: Color, share: float) -> Color:
    r, g, b = (c + (o - c) * share for c, o in zip(color, other, strict=True))
    return r, g, b


def _brightness(color: Color) -> float:
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def _tones(color: Color) -> dict[str, Color]:
    """Return the colours of a thing's parts. What is nearly black has no darker tones, only lighter ones."""
    if _brightness(color) < 60:
        return {"body": color, "shade": _mix(color, _WHITE, 0.1), "light": _mix(color, _WHITE, 0.72), "ink": _mix(color, _WHITE, 0.4)}
    return {"body": color, "shade": _mix(color, _BLACK, 0.18), "light": _mix(color, _WHITE, 0.75), "ink": _mix(color, _BLACK, 0.7)}


class _Flat:
    """Filled, with a thin contour: dark by day and light by night."""

    def __init__(self, composition: Composition, size: int) -> None:
        scene = composition.scene
        self.size, self.side = size, size * _FINE
        self.dark = dark(str(scene.setting), scene.time)
        self.contour: Color = (238, 236, 224) if self.dark else (44, 42, 52)
        self.seed = composition.seed

    def prime(self, sky: Color) -> None:
        """Begin with the colour that lies behind everything."""
        self.image = Image.new("RGB", (self.side, self.side), _rgb(sky))
        self.canvas = ImageDraw.Draw(self.image)

    def fill(self, points: Points, color: Color) -> None:
        """Fill a polygon given in shares of the side."""
        self.canvas.polygon((points * self.side - 0.5).ravel().tolist(), fill=_rgb(color))

    def mark(self, mark: Mark) -> None:
        """Draw a mark of the setting."""
        self.fill(mark.points, mark.color)

    def thing(self, place: Placement) -> None:
        """Draw a thing."""
        tones, width = _tones(place.color), 0.006 + 0.012 * place.radius
        parts = _parts(place)
        for part in parts:
            if part.how != "detail":
                self.fill(_placed(part, place, width), self.contour)
        for part in parts:
            self.fill(_placed(part, place), tones[part.role])

    def finished(self) -> NDArray[np.uint8]:
        """Return the picture."""
        return np.asarray(self.image.reduce(_FINE))


class _Outline(_Flat):
    """A line drawing on paper: things in lines of their colour, the setting in pale ones."""

    def prime(self, sky: Color) -> None:
        self.paper = _NIGHT_PAPER if self.dark else _DAY_PAPER
        super().prime(_mix(self.paper, sky, 0.04))

    def mark(self, mark: Mark) -> None:
        pale = _mix(self.paper, mark.color, 0.38 if self.dark else 0.3)
        # Lines are a little darker than what they surround, so that white hills too have an edge; by night, stars are lighter.
        bright = _brightness(mark.color) > _brightness(self.paper)
        line = _mix(self.paper, mark.color, 0.9) if self.dark and bright else _mix(self.paper, _mix(mark.color, _BLACK, 0.3), 0.45)
        self.fill(mark.points, line if mark.how == "spot" else pale)
        if mark.how == "area":
            self._trace(mark.points, line, 0.008)

    def thing(self, place: Placement) -> None:
        line, width = place.color, 0.010 + 0.020 * place.radius
        if _brightness(line) > 190:  # yellow: hard to see on paper
            line = _mix(line, _BLACK, 0.08)
        tint = _mix(_mix(self.paper, _WHITE, 0.5), place.color, 0.2)
        for part in _parts(place):
            filled = part.how == "thin" or (part.how == "detail" and part.role == "ink")
            self.fill(_placed(part, place), line if filled else tint)
            if not filled:
                self._trace(_placed(part, place), line, width if part.how == "edge" else 0.7 * width)

    def _trace(self, points: Points, color: Color, width: float) -> None:
        """Draw a line round a polygon."""
        corners = np.concatenate([points, points[:2]]) * self.side - 0.5
        self.canvas.line(corners.ravel().tolist(), fill=_rgb(color), width=max(1, round(width * self.side)), joint="curve")


class _Crayon(_Flat):
    """Wobbly shapes without contours, a little paper left round each, and slanting strokes with the paper's grain over all."""

    def __init__(self, composition: Composition, size: int) -> None:
        super().__init__(composition, size)
        self.rng = np.random.default_rng((composition.seed, 1))
        self.paper: Color = (150, 156, 190) if self.dark else (255, 253, 246)
        self.rim = _mix(self.paper, _WHITE, 0.35)
        self.waves = self.rng.uniform(0, 2 * math.pi, 4)
        self.pressed = Image.new("L", (size, size))
        self.pressing = ImageDraw.Draw(self.pressed)

    def fill(self, points: Points, color: Color) -> None:
        x, y = points.T
        bent = np.sin(np.stack([x * 31 + y * 44, y * 37 - x * 41, x * 83 + y * 20, y * 79 - x * 26]) + self.waves[:, None])
        super().fill(points + 0.0042 * (bent[:2] + 0.6 * bent[2:]).T, color)

    def prime(self, sky: Color) -> None:
        super().prime(self._soft(sky))

    def mark(self, mark: Mark) -> None:
        points = dense(mark.points, 0.05) if len(mark.points) < 9 and mark.how == "area" else mark.points
        self.fill(points, self._soft(mark.color))

    def _soft(self, color: Color) -> Color:
        """Return a colour of the setting, by night not so dark that a black thing without a contour would be lost in it."""
        return _mix(color, _NIGHT_WAX, 0.28) if self.dark else color

    def thing(self, place: Placement) -> None:
        tones, parts = _tones(place.color), _parts(place)
        for part in parts:
            if part.how != "detail":
                self.fill(_stood(part.bendable + part.bendable_normals * (0.008 / place.radius), place), self.rim)
        for part in parts:
            points = _stood(part.bendable, place)
            self.fill(points, tones[part.role])
            if part.how != "detail":
                self.pressing.polygon((points * self.size - 0.5).ravel().tolist(), fill=255)

    def finished(self) -> NDArray[np.uint8]:
        ink = super().finished().astype(np.float32)
        strokes, grain = _paper(self.size)
        x, y, u, v = self.rng.integers(0, self.size, 4)
        thin = strokes[y : y + self.size, x : x + self.size]
        pressed = np.asarray(self.pressed, np.float32) / 255
        bare = np.clip(thin * (0.62 - 0.27 * pressed), 0, 1)[..., None]
        paper = np.array(self.paper, np.float32)
        pixels = ink + (paper - ink) * bare + grain[v : v + self.size, u : u + self.size, None]
        return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


_PENCILS = {"flat": _Flat, "outline": _Outline, "crayon": _Crayon}


def _rgb(color: Color) -> tuple[int, int, int]:
    r, g, b = color
    return int(r + 0.5), int(g + 0.5), int(b + 0.5)


def _parts(place: Placement) -> tuple[Part, ...]:
    parts = drawing(place.kind)
    return tuple(part for part in parts if part.how != "detail") if place.bare else parts


def _placed(part: Part, place: Placement, width: float = 0) -> Points:
    """Return a part where its thing stands, grown by a width (in shares of the side)."""
    return _stood(part.points + part.normals * (width / place.radius) if width else part.points, place)


def _stood(points: Points, place: Placement) -> Points:
    return points * (place.facing * place.radius, place.radius) + (place.x, place.y)


@lru_cache(maxsize=4)
def _paper(size: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return what shows of the paper between slanting strokes, 0 to 1, and its grain, both (2 size, 2 size)."""
    rng = np.random.default_rng(7)
    side = 2 * size
    noise = rng.normal(size=(side, side)).astype(np.float32)
    length = max(4, size // 8)
    strokes = sum(np.roll(noise, (k, -round(k * 0.62)), (0, 1)) for k in range(length)) / math.sqrt(length)
    strokes = (strokes + np.roll(strokes, 1, 1)) / 1.3
    tooth = sum(np.roll(noise, (i, j), (0, 1)) for i in (0, 1) for j in (0, 1)) / 2
    shows = 1 / (1 + np.exp(-1.7 * (0.8 * strokes + 0.35 * tooth - 0.6)))
    return shows.astype(np.float32), 3 * rng.normal(size=(side, side)).astype(np.float32)
