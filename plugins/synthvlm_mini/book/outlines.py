"""Outlines of plain figures as polygons, (n, 2), x to the right and y down: what things and settings are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.floating[Any]]


def poly(*points: tuple[float, float]) -> Points:
    """Return a polygon of these corners."""
    return np.array(points, float)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """Return an upright rectangle."""
    return poly((left, top), (right, top), (right, bottom), (left, bottom))


def arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, count: int = 16) -> Points:
    """Return points on an ellipse, by angle in turns: 0 is to the right, a quarter turn is down."""
    turns = 2 * math.pi * np.linspace(start, stop, count)
    return np.stack([x + rx * np.cos(turns), y + ry * np.sin(turns)], axis=1)


def disc(x: float, y: float, rx: float, ry: float | None = None, count: int = 32) -> Points:
    """Return an ellipse."""
    return arc(x, y, rx, rx if ry is None else ry, 0, 1 - 1 / count, count)


def polar(radius: Callable[[float], float], x: float = 0, y: float = 0, count: int = 64) -> Points:
    """Return the closed curve of this radius, by angle in radians."""
    angles = [2 * math.pi * k / count for k in range(count)]
    return np.array([(x + radius(a) * math.cos(a), y + radius(a) * math.sin(a)) for a in angles])


def union(*circles: tuple[float, float, float], count: int = 72) -> Points:
    """Return the outline of circles (x, y, radius) that all can be seen from 0, 0 and of which one holds it."""
    x, y, r = np.array(circles, float).T
    turns = np.linspace(0, 2 * math.pi, count, endpoint=False)[:, None]
    along = x * np.cos(turns) + y * np.sin(turns)
    beyond = r**2 - (x**2 + y**2 - along**2)  # squared half of the chord that a ray from 0, 0 cuts
    reach = np.where(beyond > 0, along + np.sqrt(np.maximum(beyond, 0)), 0).max(1)
    return np.stack([reach * np.cos(turns[:, 0]), reach * np.sin(turns[:, 0])], axis=1)


def bow(start: tuple[float, float], stop: tuple[float, float], bend: float, count: int = 8) -> Points:
    """Return points on a curve from start to stop that bends to one side by this share of its length."""
    a, b = np.array(start, float), np.array(stop, float)
    t = np.linspace(0, 1, count)[:, None]
    aside = np.array([-(b - a)[1], (b - a)[0]]) * bend
    return a + (b - a) * t + aside * 4 * t * (1 - t)


def smooth(*knots: tuple[float, float], between: int = 5) -> Points:
    """Return a closed curve through the knots (a Catmull-Rom spline)."""
    at = np.array(knots, float)
    before, after, beyond = np.roll(at, 1, 0), np.roll(at, -1, 0), np.roll(at, -2, 0)
    t = np.linspace(0, 1, between, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (a[:, None] for a in (before, at, after, beyond))
    curve = p1 + 0.5 * t * (p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0)))
    return curve.reshape(-1, 2)


def band(points: Sequence[tuple[float, float]] | Points, width: float) -> Points:
    """Return the outline of a line of this width through the points."""
    at = np.asarray(points, float)
    along = np.gradient(at, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1) * (width / 2)
    return np.concatenate([at + across, (at - across)[::-1]])


def normals(points: Points) -> Points:
    """Return for every corner the step that moves both its edges outwards by one, bounded at sharp corners."""
    edges = np.roll(points, -1, 0) - points
    edges /= np.maximum(np.linalg.norm(edges, axis=1, keepdims=True), 1e-9)
    outwards = np.stack([edges[:, 1], -edges[:, 0]], axis=1)
    x, y = points.T
    if np.dot(x, np.roll(y, -1)) < np.dot(y, np.roll(x, -1)):  # the other way round
        outwards = -outwards
    ahead, behind = outwards, np.roll(outwards, 1, 0)
    cosine = np.sum(ahead * behind, axis=1, keepdims=True)
    step = (ahead + behind) / np.maximum(1 + cosine, 0.3)
    return step * np.minimum(1, 2 / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9))


def dense(points: Points, longest: float) -> Points:
    """Return the polygon with its edges cut into pieces no longer than this, so that it can be bent."""
    pieces = []
    for a, b in zip(points, np.roll(points, -1, 0), strict=True):
        count = max(1, math.ceil(float(np.hypot(*(b - a))) / longest))
        pieces.append(a + (b - a) * (np.arange(count) / count)[:, None])
    return np.concatenate(pieces)
