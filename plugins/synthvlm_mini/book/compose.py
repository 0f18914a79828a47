"""Where the things of a scene stand, by its layout and chance; all lengths are shares of the picture's side."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from synthvlm_mini.book.outlines import Points
from synthvlm_mini.book.scene import COLORS, SIZES, Scene
from synthvlm_mini.book.silhouettes import silhouette
from synthvlm_mini.book.things import MIDDLES

RADII = {1: (0.12, 0.18, 0.26), 2: (0.10, 0.145, 0.20), 3: (0.075, 0.105, 0.14), 4: (0.085, 0.125, 0.17)}
"""Half the height of a thing, by number of things and size."""
HOLDER, CLOUD_HOLDER = 0.28, 0.38
"""The same of a thing that another is inside of; a cloud is less high than its box."""

_VARIATION = 0.04  # of the radii; the sizes stay apart
_MARGIN = 0.015
_DIRECTIONS = {"middle": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
_LINES = {2: (0.27, 0.73), 3: (0.18, 0.5, 0.82)}
_COLUMNS = {2: (0.25, 0.75), 3: (0.18, 0.5, 0.82)}
_SQUARE = ((0.27, 0.27), (0.73, 0.27), (0.27, 0.73), (0.73, 0.73))


@dataclass(frozen=True, slots=True)
class Placement:
    """A thing in the picture: its centre, half its height, its colour (RGB); ``bare`` leaves out what is drawn on it."""

    kind: str
    x: float
    y: float
    radius: float
    color: tuple[float, float, float]
    mirrored: bool = False
    bare: bool = False

    @property
    def facing(self) -> int:
        """-1 in the mirror, else 1."""
        return -1 if self.mirrored else 1

    @property
    def half_width(self) -> float:
        """Half the width of the thing."""
        return self.radius * silhouette(self.kind).half_width

    @property
    def points(self) -> Points:
        """Points spread evenly over the thing, (n, 2)."""
        return silhouette(self.kind).points * self._scale + (self.x, self.y)

    @property
    def cell(self) -> float:
        """The area that each of :attr:`points` stands for."""
        return (silhouette(self.kind).cell * self.radius) ** 2

    def covers(self, points: Points) -> NDArray[np.bool_]:
        """Return which of the points, (…, 2), lie on the thing."""
        return silhouette(self.kind).covers((points - (self.x, self.y)) / self._scale)

    @property
    def _scale(self) -> tuple[float, float]:
        return self.facing * self.radius, self.radius


@dataclass(frozen=True, slots=True)
class Composition:
    """A scene with all that chance decides: a placement for every thing, in the scene's order, and a seed for the rest."""

    scene: Scene
    placements: tuple[Placement, ...]
    seed: int

    @property
    def order(self) -> tuple[int, ...]:
        """The order of drawing: what is inside another thing comes after it."""
        count = len(self.placements)
        return tuple(reversed(range(count))) if self.scene.layout == "inside" else tuple(range(count))


def compose(scene: Scene, rng: np.random.Generator) -> Composition:
    """Place the things of a scene. The draws are as many whatever the scene's attributes, so that one can change alone.

    Raises ValueError for a scene that is not complete.
    """
    if not scene.complete:
        raise ValueError("a scene with unknown attributes cannot be drawn")
    seed = int(rng.integers(2**63))
    chance = rng.uniform(-1, 1, (len(scene.things) + 1, 7))
    inside = scene.layout == "inside"
    placements = []
    for i, (thing, (dx, dy, grow, flip, *tint)) in enumerate(zip(scene.things, chance, strict=False)):
        radius = RADII[len(scene.things)][SIZES.index(str(thing.size))]
        if inside and i == 1:
            radius = CLOUD_HOLDER if thing.kind == "cloud" else HOLDER
        radius = float(radius * (1 + _VARIATION * grow))
        r, g, b = (float(min(max(c + 10 * t, 0), 255)) for c, t in zip(COLORS[str(thing.color)], tint, strict=True))
        placements.append(Placement(thing.kind, dx, dy, radius, (r, g, b), bool(flip > 0), inside and i == 1))
    return Composition(scene, tuple(_arrange(scene, placements, chance[-1])), seed)


def layout_boxes(scene: Scene, seed: int | np.random.Generator) -> list[tuple[float, float, float]]:
    """Return the centre and half the height of every thing as :func:`~synthvlm_mini.book.render.render` draws it."""
    composition = compose(scene, np.random.default_rng(seed))
    return [(p.x, p.y, p.radius) for p in composition.placements]


def masks(composition: Composition, cells: int = 16) -> NDArray[np.float32]:
    """Return for every thing how much of each cell of a coarse grid it visibly covers, (n, cells, cells), 0 to 1."""
    result = np.zeros((len(composition.placements), cells, cells), np.float32)
    order = composition.order
    for position, i in enumerate(order):
        placement = composition.placements[i]
        points = placement.points
        for j in order[position + 1 :]:
            points = points[~composition.placements[j].covers(points)]
        x, y = np.clip((points * cells).astype(int), 0, cells - 1).T
        counts = np.bincount(y * cells + x, minlength=cells * cells).reshape(cells, cells)
        result[i] = np.minimum(counts * (placement.cell * cells * cells), 1)
    return result


def _arrange(scene: Scene, things: list[Placement], chance: NDArray[np.floating]) -> list[Placement]:
    """Place things whose x and y are still chance, from -1 to 1."""
    layout, count = str(scene.layout), len(things)
    first, second = things[0], things[-1]
    if layout == "on":
        return _stack(first, second)
    if layout == "behind":
        return _overlap(first, second, chance)
    if layout == "inside":
        return _nest(first, second)
    if layout == "row":
        across = _apart([c + 0.02 * t.x for c, t in zip(_LINES[count], things, strict=True)], [t.half_width for t in things])
        return [_within(t, x, 0.5 + 0.04 * t.y) for x, t in zip(across, things, strict=True)]
    if layout == "column":
        down = _apart([c + 0.015 * t.y for c, t in zip(_COLUMNS[count], things, strict=True)], [t.radius for t in things])
        return [_within(t, 0.5 + 0.04 * t.x, y) for y, t in zip(down, things, strict=True)]
    if layout == "square":
        return [_within(t, x + 0.02 * t.x, y + 0.02 * t.y) for (x, y), t in zip(_SQUARE, things, strict=True)]
    dx, dy = _DIRECTIONS[layout]
    return [_within(first, 0.5 + 0.25 * dx + 0.03 * first.x, 0.5 + 0.25 * dy + 0.03 * first.y)]


def _stack(first: Placement, second: Placement) -> list[Placement]:
    """Let the first down on the second until they touch; they overlap by a hair, so that no gap shows."""
    above, below = silhouette(first.kind), silhouette(second.kind)
    aside = 0.01 * first.x
    x = np.linspace(-1, 1, 61) * min(first.half_width, second.half_width)
    bottoms = above.bottoms[above.columns((x - aside) * first.facing / first.radius)] * first.radius
    tops = below.tops[below.columns(x * second.facing / second.radius)] * second.radius
    lowest = float(np.min(tops - bottoms)) + 0.008
    return _shifted([_at(first, aside, lowest), _at(second, 0, 0)], 0.5 + 0.04 * second.x, 0.5 + 0.03 * second.y)


def _overlap(first: Placement, second: Placement, chance: NDArray[np.floating]) -> list[Placement]:
    """Put the first behind the second, to the upper left or right, so far that about a third of the smaller one overlaps."""
    some, still = first.points[::3] - (first.x, first.y), _at(second, 0, 0)
    smaller = min(len(p.points) * p.cell for p in (first, second))
    side, enough = 1 if chance[0] > 0 else -1, (0.29 + 0.04 * chance[2]) * smaller
    distances = np.linspace(1.25, 0.45, 30) * (first.radius + second.radius)
    best, at = -1.0, np.zeros(2)
    # What has room below or at its side (an umbrella, a crescent) may hardly overlap: then it is put less or more upwards.
    for turn in (45 + 12 * chance[1], 20, 70, 0):
        steps = distances[:, None] * np.array([side * math.cos(math.radians(turn)), -math.sin(math.radians(turn))])
        overlaps = still.covers(some + steps[:, None]).sum(1) * (3 * first.cell)
        i = int(np.argmax(np.minimum(overlaps, enough)))  # the first that is enough, or the most
        if overlaps[i] > best:
            best, at = float(overlaps[i]), steps[i]
        if best >= enough:
            break
    # The pair as a whole is in the middle, give or take a little.
    return _shifted([_at(first, *at), still], 0.5 + 0.04 * second.x, 0.5 + 0.04 * second.y)


def _nest(inner: Placement, outer: Placement) -> list[Placement]:
    outer = _within(outer, 0.5 + 0.1 * outer.x, 0.5 + 0.1 * outer.y)
    dx, dy = MIDDLES.get(outer.kind, (0, 0))
    return [_at(inner, outer.x + outer.radius * dx + 0.008 * inner.x, outer.y + outer.radius * dy + 0.008 * inner.y), outer]


def _shifted(things: list[Placement], x: float, y: float) -> list[Placement]:
    """Move things together, so that the box round them is centred at x, y or as near to that as fits."""
    left, right = min(t.x - t.half_width for t in things), max(t.x + t.half_width for t in things)
    top, bottom = min(t.y - t.radius for t in things), max(t.y + t.radius for t in things)
    dx = _clamped(x, (right - left) / 2) - (left + right) / 2
    dy = _clamped(y, (bottom - top) / 2) - (top + bottom) / 2
    return [_at(t, t.x + dx, t.y + dy) for t in things]


def _apart(centres: list[float], halves: list[float]) -> list[float]:
    """Move the centres of what stands in a line as little as needed, so that nothing touches or leaves the picture."""
    gap = 0.012
    for i in range(len(centres)):
        before = centres[i - 1] + halves[i - 1] + gap if i else _MARGIN
        centres[i] = max(centres[i], before + halves[i])
    for i in reversed(range(len(centres))):
        after = centres[i + 1] - halves[i + 1] - gap if i + 1 < len(centres) else 1 - _MARGIN
        centres[i] = min(centres[i], after - halves[i])
    return centres


def _clamped(centre: float, half: float) -> float:
    return min(max(centre, half + _MARGIN), 1 - half - _MARGIN)


def _within(thing: Placement, x: float, y: float) -> Placement:
    """Place a thing, or as near as lies in the picture."""
    return _at(thing, _clamped(x, thing.half_width), _clamped(y, thing.radius))


def _at(thing: Placement, x: float, y: float) -> Placement:
    return Placement(thing.kind, float(x), float(y), thing.radius, thing.color, thing.mirrored, thing.bare)
